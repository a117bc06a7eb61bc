"""Every public function of the library under the modes that other people's code sets, and what its program is made of.

Tracing is enough to meet their rules, and takes a moment; NaNs are looked for in what is computed.
"""

import jax
import jax.numpy as jnp
import pytest
from jax.errors import KeyReuseError
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.every_function import CALLS, NETWORK, NETWORK_CALLS, called
from tests.programs import equations, executions, library_calls_in_loops

KEY = jax.random.key(0)


@pytest.mark.parametrize("name", ["bound.evaluate, full", "bound.estimate, binomial", "smc denoised, gaussian"])
def test_nothing_computed_is_not_a_number(name):
    with jax.debug_nans(True):
        run, x_0 = called(name)
        jax.jit(run)(KEY, x_0)


@pytest.mark.parametrize("name", CALLS)
def test_with_data_on_the_host_and_64_bits(name):
    """Check the program, too: products of float32 numbers are exact, no library is called in a loop, the calls of the
    network are those of the table, and no key is used twice.
    """
    run, x_0 = called(name)
    # The table of costs takes the same noise at all times on purpose, which shows that the check looks into loops.
    same_noise = name.startswith("respacing.costs")
    with jax.enable_x64(True):
        if same_noise:
            with jax.debug_key_reuse(True), pytest.raises(KeyReuseError):
                jax.jit(lambda key: run(key, x_0)).trace(KEY)
        with jax.debug_key_reuse(not same_noise):
            jaxpr = jax.jit(lambda key: run(key, x_0)).trace(KEY).jaxpr.jaxpr
    assert executions(jaxpr, NETWORK) == NETWORK_CALLS[name.split(",")[0]]
    assert not library_calls_in_loops(jaxpr)
    for equation, _ in equations(jaxpr):
        if equation.primitive.name == "dot_general" and equation.invars[0].aval.dtype == jnp.float32:
            assert equation.params["precision"] == (jax.lax.Precision.HIGHEST,) * 2


@pytest.mark.parametrize("name", CALLS)
def test_with_a_batch_that_is_spread_over_an_explicit_mesh_and_strict_promotion(name):
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh), jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        run, x_0 = called(name)
        x_0 = jax.device_put(x_0, NamedSharding(jax.sharding.get_mesh(), PartitionSpec("batch")))
        jax.eval_shape(jax.jit(run), KEY, x_0)


@pytest.mark.parametrize("name", [name for name in CALLS if name.endswith("gaussian")])
def test_under_shard_map(name):
    """Test one kind of model: the carries of loops matter here, and they are x and sums over it."""
    run, x_0 = called(name)
    with jax.set_mesh(jax.make_mesh((1,), ("batch",), axis_types=(AxisType.Auto,))):
        spread = jax.shard_map(
            lambda key, x_0: jax.tree.map(lambda a: a[None], run(key, x_0)),
            in_specs=(PartitionSpec(), PartitionSpec("batch")),
            out_specs=PartitionSpec("batch"),
        )
        jax.eval_shape(spread, KEY, x_0)

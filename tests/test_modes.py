"""Every public function of the library under the modes that other people's code sets.

Tracing is enough to meet their rules, and takes a moment; NaNs are looked for in what is computed.
"""

from contextlib import contextmanager

import jax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.every_function import CALLS, called


def explicit_mesh():
    return jax.make_mesh((1,), ("batch",), axis_types=(AxisType.Explicit,))


@contextmanager
def explicit():
    with jax.set_mesh(explicit_mesh()):
        yield


MODES = {
    "x64": lambda: jax.enable_x64(True),
    "rank": lambda: jax.numpy_rank_promotion("raise"),
    "dtype": lambda: jax.numpy_dtype_promotion("strict"),
    "explicit mesh": explicit,
}


@pytest.mark.parametrize("name", ["bound.evaluate, gaussian", "bound.estimate, binomial", "particles, full", "optimal"])
def test_nothing_computed_is_not_a_number(name):
    with jax.debug_nans(True):
        run, x_0 = called(name)
        jax.jit(run)(jax.random.key(0), x_0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CALLS)
def test_traced_under(mode, name):
    with MODES[mode]():
        run, x_0 = called(name)
        jax.eval_shape(run, jax.random.key(0), x_0)


@pytest.mark.parametrize("name", CALLS)
def test_with_a_batch_that_is_spread_over_an_explicit_mesh(name):
    with explicit():
        run, x_0 = called(name)
        x_0 = jax.device_put(x_0, NamedSharding(jax.sharding.get_mesh(), PartitionSpec("batch")))
        jax.eval_shape(jax.jit(run), jax.random.key(0), x_0)


@pytest.mark.parametrize("name", CALLS)
def test_under_shard_map(name):
    run, x_0 = called(name)
    with jax.set_mesh(jax.make_mesh((1,), ("batch",), axis_types=(AxisType.Auto,))):
        spread = jax.shard_map(
            lambda key, x_0: jax.tree.map(lambda a: a[None], run(key, x_0)),
            in_specs=(PartitionSpec(), PartitionSpec("batch")),
            out_specs=PartitionSpec("batch"),
        )
        jax.eval_shape(spread, jax.random.key(0), x_0)

"""Products of float32 numbers keep float32's bits on accelerators: read off programs lowered for TPU and for CUDA.

Those of every function of the library are read in `test_modes`.
"""

import re
from collections import Counter

import jax
import jax.numpy as jnp
import pytest

from dpm_jax import optimal, schedules
from dpm_jax.data import swiss_roll
from dpm_jax.nets.convolution import conv
from dpm_jax.processes import Gaussian
from dpm_jax.training import build
from dpm_jax.training import config as config_lib
from tests.programs import equations

KEY = jax.random.key(0)
# Each layer's own and those of its two gradients: four layers of two scales; eight blocks of two, and two more. The
# first of a block that is rematerialised is computed again.
CONVOLUTIONS = {"multiscale": 3 * 4 * 2, "unet": 3 * (8 * 2 + 2) + 8}
PRODUCT = re.compile(r"stablehlo\.(?:dot_general|convolution|dot)\b.*")


def products(function, *args, platforms=("tpu",)):
    """The lines of products of float32 numbers in the programs for these platforms."""
    traced = jax.jit(function).trace(*args)
    lines = [line for p in platforms for line in PRODUCT.findall(traced.lower(lowering_platforms=(p,)).as_text())]
    return [line for line in lines if "xf32>" in line.split(" : ")[-1].split("->")[0]]


def below(lines, precision="HIGHEST"):
    return [line for line in lines if line.count(precision) < 2]


def networks():
    yield "time_mlp", (2,), {}
    yield "sigmoid_mlp", (2,), {}
    yield "rbf", (2,), {}
    yield "multiscale", (8, 8, 2), {"network.multiscale.dense_layers": 1, "network.multiscale.num_scales": 2}
    yield "unet", (8, 8, 1), {"network.unet.features": (8, 8), "network.unet.remat": True}


def experiment(name, shape, changes, precision):
    config = config_lib.default()
    config.num_timesteps = 5
    config.network.name, config.network.precision = name, precision
    config.schedule.learned = True
    with config.unlocked():
        for field, value in changes.items():
            config.update_from_flattened_dict({field: value})
    return build.experiment(config, shape)


def loss_and_gradient(name, shape, changes, precision):
    built = experiment(name, shape, changes, precision)
    params = jax.eval_shape(built.init, KEY)
    x_0 = jax.ShapeDtypeStruct((4, *shape), jnp.float32)
    return jax.value_and_grad(built.loss, has_aux=True), params, KEY, x_0, built.memory


@pytest.mark.parametrize(("name", "shape", "changes"), list(networks()))
def test_float32_networks_and_their_gradients(name, shape, changes):
    found = products(*loss_and_gradient(name, shape, changes, "highest"), platforms=("tpu", "cuda"))
    assert len(found) >= 8
    assert below(found) == []


@pytest.mark.parametrize(("name", "shape", "changes"), list(networks()))
def test_every_product_of_a_network_and_of_its_gradients_has_the_precision_of_the_config(name, shape, changes):
    """One that neither JAX nor the library takes unasked; in the branches for accelerators.

    Resampling, channel by channel, and the moments of groups are exact whatever the config says.
    """
    built = experiment(name, shape, changes, "high")
    params = jax.eval_shape(built.init, KEY)
    x, t = jnp.ones((4, *shape)), jnp.ones(4, jnp.int32)
    gradients = jax.grad(lambda params, x: built.network(params, x, t).sum(), argnums=(0, 1))
    jaxpr = jax.make_jaxpr(gradients)(params, x).jaxpr
    found = Counter()
    for equation, _ in equations(jaxpr, but_for=("cpu",)):
        moments = equation.primitive.name == "dot_general" and "GroupNorm" in str(equation.source_info.name_stack)
        if moments or equation.params.get("feature_group_count", 1) > 1:
            assert equation.params["precision"] == (jax.lax.Precision.HIGHEST,) * 2
        elif equation.primitive.name in ("dot_general", "conv_general_dilated"):
            found[equation.primitive.name, equation.params["precision"]] += 1
    high = (jax.lax.Precision.HIGH,) * 2
    assert {precision for _, precision in found} == {high}
    assert found["conv_general_dilated", high] == CONVOLUTIONS.get(name, 0)
    assert found["dot_general", high] >= 3


@pytest.mark.parametrize("size", [1, 3])
def test_gradients_of_convolutions_have_the_precision_of_the_call(size):
    """However the call says so: the gradients are traced when the context has ended."""
    x, kernel = jnp.ones((2, 4, 4, 3)), jnp.ones((size, size, 3, 5))

    def by_context(x, kernel):
        with jax.default_matmul_precision("high"):
            return conv(x, kernel).sum()

    def by_argument(x, kernel):
        return conv(x, kernel, "high").sum()

    for function in (by_context, by_argument):
        found = products(jax.value_and_grad(function, argnums=(0, 1)), x, kernel)
        assert len(found) == 3
        assert below(found, "HIGH") == []


def test_what_is_exact_is_exact_on_accelerators():
    nodes = swiss_roll.quadrature(0.1)
    base = schedules.geometric(5)

    def learned(coefficients):
        return schedules.learned(base, coefficients)

    def best(x):
        return optimal.normal(Gaussian(base), jnp.zeros(2), jnp.eye(2)).reverse(x, jnp.ones(3, jnp.int32))

    x = jnp.ones((3, 2))
    assert products(lambda: swiss_roll.mean_log_prob(0.1, nodes)) == []
    for function, args in (
        (jax.jacobian(learned), (jnp.zeros(4),)),
        (best, (x,)),
        (Gaussian(base).null_log_prob, (x,)),
    ):
        assert below(products(function, *args)) == []

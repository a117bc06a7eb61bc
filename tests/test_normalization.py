"""Group normalisation against its formula in float64, and against Flax's module."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpm_jax.nets.normalization import GroupNorm

CASES = [((3, 5, 4, 12), 4), ((2, 6, 10), 1), ((2, 3, 3, 8), 8), ((2, 7, 2, 3, 6), 2), ((4, 6), 3)]


def params_of(channels):
    scale, bias = np.random.default_rng(1).normal(size=(2, channels)).astype(np.float32)
    return {"params": {"scale": scale, "bias": bias}}


def in_float64(x, num_groups, scale, bias):
    grouped = np.float64(x).reshape(len(x), -1, num_groups, x.shape[-1] // num_groups)
    mean, variance = (f(grouped, axis=(1, 3), keepdims=True) for f in (np.mean, np.var))
    return ((grouped - mean) / np.sqrt(variance + 1e-6)).reshape(x.shape) * scale + bias


@pytest.mark.parametrize(("shape", "num_groups"), CASES)
def test_is_the_formula(shape, num_groups):
    x = 3 + 2 * np.random.default_rng(0).normal(size=shape).astype(np.float32)
    params = params_of(shape[-1])
    found = jax.jit(GroupNorm(num_groups).apply)(params, x)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, in_float64(x, num_groups, **params["params"]), rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize(("shape", "num_groups"), CASES[:3])
def test_parameters_and_gradients_are_those_of_flax(shape, num_groups):
    """The gradient in the input, which goes through the moments, and in both parameters."""
    ours, flax = GroupNorm(num_groups), nn.GroupNorm(num_groups)
    x = 3 + 2 * jax.random.normal(jax.random.key(0), shape)
    target = jax.random.normal(jax.random.key(1), shape)
    assert jax.tree.map(jnp.shape, ours.init(jax.random.key(0), x)) == jax.tree.map(
        jnp.shape, flax.init(jax.random.key(0), x)
    )

    def gradient(module):
        return jax.jit(jax.grad(lambda p, x: jnp.sum((module.apply(p, x) - target) ** 2), (0, 1)))(params, x)

    params = params_of(shape[-1])
    grads = [gradient(module) for module in (ours, flax)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *grads)


def test_bfloat16_goes_in_and_float32_comes_out():
    x = jax.random.normal(jax.random.key(0), (2, 64, 64, 8)).astype(jnp.bfloat16) + 1
    found = GroupNorm(2).apply(params_of(8), x)
    assert found.dtype == jnp.float32
    wanted = in_float64(np.asarray(x, np.float32), 2, **params_of(8)["params"])
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)

"""Draws of t: their range, their weights, and that they are unbiased for any function of t."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpm_jax import timesteps

SAMPLERS = {
    "uniform": timesteps.uniform,
    "antithetic": timesteps.antithetic,
    "low_discrepancy": timesteps.low_discrepancy,
    "importance": None,
}


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("T", [2, 3, 1000])
def test_unbiased_for_any_function_of_t(name, T):
    sampler = SAMPLERS[name] or timesteps.importance(jnp.arange(T + 1) ** 0.5 + 0.1)
    values = jnp.sin(jnp.arange(T + 1.0)) + 2

    @jax.jit
    @jax.vmap
    def estimate(key):
        t, weight = sampler(key, 65, T)
        return jnp.mean(weight * values[t]), t.min(), t.max()

    mean, low, high = estimate(jax.random.split(jax.random.key(0), 3000))
    assert int(low.min()) == 2
    assert int(high.max()) == T
    exact = float(values[2:].sum())
    assert abs(float(mean.mean()) - exact) <= 4 * float(mean.std()) / np.sqrt(3000) + 1e-4 * exact


@pytest.mark.parametrize("name", ["uniform", "antithetic", "low_discrepancy"])
@pytest.mark.parametrize("num", [1, 2, 7])
def test_shapes_and_the_empty_sum(name, num):
    draw = SAMPLERS[name](jax.random.key(0), num, 1)
    assert draw.t.shape == draw.weight.shape == (num,)
    assert draw.t.dtype == jnp.int32
    np.testing.assert_array_equal(draw.weight, 0)
    assert int(draw.t.max()) <= 1


def test_importance_wants_a_probability_for_each_t():
    with pytest.raises(ValueError, match=r"must have shape \(101,\), got \(30,\)"):
        timesteps.importance(jnp.ones(30))(jax.random.key(0), 4, 100)


@pytest.mark.parametrize("T", [2, 3, 1000])
def test_emphasis_weights_the_sum(T):
    weights = jnp.arange(T + 1) ** 0.5 + 0.1
    values = jnp.sin(jnp.arange(T + 1.0)) + 2

    @jax.jit
    @jax.vmap
    def estimate(key):
        t, weight = timesteps.emphasis(weights)(key, 65, T)
        return jnp.mean(weight * values[t]), t.min(), t.max()

    mean, low, high = estimate(jax.random.split(jax.random.key(0), 3000))
    assert int(low.min()) == 2
    assert int(high.max()) == T
    exact = (T - 1) * float((weights[2:] * values[2:]).sum() / weights[2:].sum())
    assert abs(float(mean.mean()) - exact) <= 4 * float(mean.std()) / np.sqrt(3000) + 1e-4 * exact


def test_emphasis_of_nothing_is_the_even_grid():
    even = timesteps.low_discrepancy(jax.random.key(1), 40, 100)
    alike = timesteps.emphasis(jnp.ones(101))(jax.random.key(1), 40, 100)
    np.testing.assert_array_equal(even.t, alike.t)
    np.testing.assert_array_equal(even.weight, alike.weight)
    with pytest.raises(ValueError, match=r"must have shape \(101,\), got \(30,\)"):
        timesteps.emphasis(jnp.ones(30))(jax.random.key(0), 4, 100)


def test_low_discrepancy_visits_each_t_equally():
    draw = timesteps.low_discrepancy(jax.random.key(3), 99 * 4, 100)
    counts = np.bincount(np.asarray(draw.t), minlength=101)
    assert set(counts[2:]) <= {3, 4, 5}

"""Conditional probabilities against closed forms and enumeration."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpm_jax import Binomial, Gaussian, conditional, forward_edge, likelihood, optimal, schedules

KEY = jax.random.key(0)
MEAN = np.array([0.3, -0.2])
COVARIANCE = np.array([[1.4, 0.5], [0.5, 0.6]])


@pytest.mark.parametrize("how", ["guided", "denoised", "matched"])
def test_gaussian_data_have_the_conditional_density_of_the_closed_form(how):
    process = Gaussian(schedules.geometric(60, beta_1=1e-4))
    mean, covariance = jnp.asarray(MEAN, jnp.float32), jnp.asarray(COVARIANCE, jnp.float32)
    model = forward_edge(optimal.normal(process, mean, covariance))
    x_0 = np.array([[0.5, 0.1], [-1.0, -1.2], [2.0, 0.4]])
    run = jax.jit(
        lambda key, x_0: conditional.log_conditional(
            *(key, model, x_0, jnp.array([True, False])), num_trajectories=500, num_particles=2000, how=how
        )
    )
    found = run(KEY, jnp.asarray(x_0, jnp.float32))
    chex.assert_shape(found.conditional, (3,))
    chex.assert_type(found.conditional, jnp.float32)
    slope = COVARIANCE[1, 0] / COVARIANCE[0, 0]
    variance = COVARIANCE[1, 1] - slope * COVARIANCE[0, 1]
    difference = x_0[:, 1] - MEAN[1] - slope * (x_0[:, 0] - MEAN[0])
    exact = -0.5 * (difference**2 / variance + np.log(2 * np.pi * variance))
    np.testing.assert_allclose(found.conditional, exact, atol=0.12)
    assert (np.abs(found.conditional - exact) < 4 * found.stderr + 0.02).all()
    assert (np.asarray(found.stderr) < 0.1).all()
    np.testing.assert_array_equal(found.conditional, found.joint - found.observed)
    assert (np.asarray(found.effective_size) > 200).all()


def test_bits_have_the_conditional_probability_of_enumeration():
    process = Binomial(schedules.erase(30, beta_1=1e-3))
    values = jnp.array([[0, 0, 1, 1, 0], [1, 0, 0, 1, 1], [1, 1, 1, 0, 0]], jnp.float32)
    model = optimal.finite_bits(process, values, jnp.log(jnp.array([0.5, 0.3, 0.2])))
    strings, log_p = likelihood.enumerate_bits(model, 5)
    strings, p = np.asarray(strings), np.exp(np.asarray(log_p, np.float64))
    observed = np.array([True, False, False, True, False])
    x_0 = values[:2]
    found = jax.jit(
        lambda key: conditional.log_conditional(
            *(key, model, x_0, jnp.asarray(observed)), num_trajectories=2000, num_particles=4000
        )
    )(KEY)
    for i, x in enumerate(np.asarray(x_0)):
        agree = (strings[:, observed] == x[observed]).all(1)
        same = (strings == x).all(1)
        np.testing.assert_allclose(found.observed[i], np.log(p[agree].sum()), atol=0.1)
        np.testing.assert_allclose(found.conditional[i], np.log(p[same].sum() / p[agree].sum()), atol=0.15)

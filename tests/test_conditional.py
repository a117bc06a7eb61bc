"""Conditional probabilities against closed forms and enumeration."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpm_jax import Bernoulli, Binomial, Gaussian, Normal, forward_edge, likelihood, optimal, schedules, smc

KEY = jax.random.key(0)
MEAN = np.array([0.3, -0.2])
COVARIANCE = np.array([[1.4, 0.5], [0.5, 0.6]])


@pytest.mark.parametrize("how", ["guided", "denoised", "matched"])
def test_gaussian_data_have_the_conditional_density_of_the_closed_form(how):
    process = Gaussian(schedules.geometric(60, beta_1=1e-4))
    mean, covariance = jnp.asarray(MEAN, jnp.float32), jnp.asarray(COVARIANCE, jnp.float32)
    model = forward_edge(optimal.normal(process, mean, covariance))
    x_0 = np.array([[0.5, 0.1], [-1.0, -1.2], [2.0, 0.4]])

    @jax.jit
    def run(key, x_0):
        joint_key, particle_key = jax.random.split(key)
        found = smc.sample(particle_key, model, Normal.known(x_0, jnp.array([True, False])), how, 2000)
        weights = likelihood.log_weights(joint_key, model, x_0, 500)
        return likelihood.conditional(weights, found.log_evidence, found.stderr)

    found = run(KEY, jnp.asarray(x_0, jnp.float32))
    chex.assert_shape(found.log_prob, (3,))
    chex.assert_type(found.log_prob, jnp.float32)
    slope = COVARIANCE[1, 0] / COVARIANCE[0, 0]
    variance = COVARIANCE[1, 1] - slope * COVARIANCE[0, 1]
    difference = x_0[:, 1] - MEAN[1] - slope * (x_0[:, 0] - MEAN[0])
    exact = -0.5 * (difference**2 / variance + np.log(2 * np.pi * variance))
    np.testing.assert_allclose(found.log_prob, exact, atol=0.12)
    assert (np.abs(found.log_prob - exact) < 4 * found.stderr + 0.02).all()
    assert (np.asarray(found.stderr) < 0.1).all()


def test_bits_have_the_conditional_probability_of_enumeration():
    process = Binomial(schedules.erase(30, beta_1=1e-3))
    values = jnp.array([[0, 0, 1, 1, 0], [1, 0, 0, 1, 1], [1, 1, 1, 0, 0]], jnp.float32)
    model = optimal.finite_bits(process, values, jnp.log(jnp.array([0.5, 0.3, 0.2])))
    strings, log_p = likelihood.enumerate_bits(model, 5)
    strings, p = np.asarray(strings), np.exp(np.asarray(log_p, np.float64))
    observed = np.array([True, False, False, True, False])
    x_0 = values[:2]

    @jax.jit
    def run(key):
        joint_key, particle_key = jax.random.split(key)
        found = smc.sample(particle_key, model, Bernoulli.known(x_0, jnp.asarray(observed)), "denoised", 4000)
        weights = likelihood.log_weights(joint_key, model, x_0, 2000)
        return found.log_evidence, likelihood.conditional(weights, found.log_evidence, found.stderr)

    log_evidence, found = run(KEY)
    for i, x in enumerate(np.asarray(x_0)):
        agree = (strings[:, observed] == x[observed]).all(1)
        same = (strings == x).all(1)
        np.testing.assert_allclose(log_evidence[i], np.log(p[agree].sum()), atol=0.1)
        np.testing.assert_allclose(found.log_prob[i], np.log(p[same].sum() / p[agree].sum()), atol=0.15)

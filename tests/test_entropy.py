"""Entropies of reverse steps against closed forms and enumeration, and between their bounds at every t."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpm_jax import Binomial, Gaussian, bound, entropy, forward_edge, likelihood, optimal, schedules
from dpm_jax.data import heartbeat

KEY = jax.random.key(0)
LOG_2PIE = np.log(2 * np.pi * np.e)


def float64(schedule):
    """alpha_bar, sigma2 and beta, from log nu alone."""
    nu = np.exp(np.asarray(schedule.log_nsr, float))
    alpha_bar, sigma2 = 1 / (1 + nu), nu / (1 + nu)
    beta = 1 - alpha_bar[1:] / alpha_bar[:-1]
    return alpha_bar, sigma2, np.concatenate([[0], beta])


def entropy_of_bits(rate):
    """Nats of independent bits of these rates, [n]."""
    rate = np.asarray(rate, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(-rate * np.log(rate) - (1 - rate) * np.log1p(-rate))


@pytest.mark.parametrize("T", [1, 2, 50])
def test_bounds_of_densities_are_closed_forms(T):
    schedule = schedules.geometric(T, beta_1=1e-3)
    lower, upper = entropy.step_bounds(Gaussian(schedule), (3,))
    chex.assert_shape([lower, upper], (T + 1,))
    chex.assert_type([lower, upper], jnp.float32)
    _, sigma2, beta = float64(schedule)
    np.testing.assert_allclose(upper[1:], 1.5 * (LOG_2PIE + np.log(beta[1:])), atol=1e-3)
    # The posterior's variance, by Bayes' rule: of precision (1 - beta_t) / beta_t + 1 / sigma2_{t-1}.
    variance = 1 / ((1 - beta[2:]) / beta[2:] + 1 / sigma2[1:-1])
    np.testing.assert_allclose(lower[2:], 1.5 * (LOG_2PIE + np.log(variance)), atol=1e-3)
    assert np.isnan([lower[0], upper[0]]).all()
    assert lower[1] == -np.inf  # x_0 is a point, once it is known


def test_nothing_cancels_on_a_fine_schedule():
    """Against the entropy of the posterior itself, whose variance is no difference."""
    schedule = schedules.geometric(1000, beta_1=3e-7)
    t = jnp.arange(2, 1001)
    x = jnp.zeros((999, 2))
    lower = entropy.step_bounds(Gaussian(schedule), (2,)).lower
    np.testing.assert_allclose(lower[2:], Gaussian(schedule).posterior(x, x, t).entropy(), atol=1e-5)


@pytest.mark.parametrize("schedule", [schedules.erase(12), schedules.erase(300, beta_1=1e-4)])
def test_bounds_of_bits_are_closed_forms(schedule):
    T = schedule.num_timesteps
    lower, upper = entropy.step_bounds(Binomial(schedule), (7,))
    beta, flip = np.asarray(schedule.beta, float), np.asarray(schedule.sigma2, float) / 2
    np.testing.assert_allclose(upper[1:], 7 * entropy_of_bits(beta[1:] / 2), atol=1e-5)
    # H(X_{t-1} | X_t, x_0) of one bit, its four cases one by one.
    expected = np.zeros(T + 1)
    for t in range(1, T + 1):
        stay = np.array([[1 - beta[t] / 2, beta[t] / 2], [beta[t] / 2, 1 - beta[t] / 2]])
        joint = np.array([1 - flip[t - 1], flip[t - 1]])[:, None] * stay  # [x_{t-1}, x_t], x_0 = 0
        expected[t] = (joint.sum(0) * entropy_of_bits(joint[1] / joint.sum(0))).sum()
    np.testing.assert_allclose(lower[1:], 7 * expected[1:], atol=1e-5)
    assert abs(float(lower[1])) < 1e-6


@pytest.mark.parametrize("variance", [1.0, 0.25, 1e-4])
def test_the_true_entropy_of_normal_data_lies_between(variance):
    """H_q(X_{t-1} | X_t) from the joint covariance, float64; for variance 1 it is the upper bound."""
    schedule = schedules.geometric(80, beta_1=1e-3)
    lower, upper = (np.asarray(b, float) for b in entropy.step_bounds(Gaussian(schedule), (2,)))
    alpha_bar, sigma2, beta = float64(schedule)
    marginal = alpha_bar * variance + sigma2
    true = LOG_2PIE + np.log(beta[1:] * marginal[:-1] / marginal[1:])
    assert (lower[2:] <= true[1:] + 1e-5).all()
    assert (true <= upper[1:] + 1e-5).all()
    if variance == 1:
        np.testing.assert_allclose(true, upper[1:], atol=1e-4)
    # And the model that knows the data has these entropies in each of its steps.
    model = optimal.normal(Gaussian(schedule), jnp.zeros(2), variance * jnp.eye(2))
    x_0 = variance**0.5 * jax.random.normal(KEY, (16, 2))
    steps = entropy.model_steps(KEY, model, x_0)
    np.testing.assert_allclose(steps[1:], true, atol=1e-3)


def test_the_upper_bound_wants_noise_to_raise_the_entropy():
    """N(0, 4) loses entropy on its way to N(0, 1), and its reverse steps have more than the bound says."""
    schedule = schedules.geometric(80, beta_1=1e-3)
    alpha_bar, sigma2, beta = float64(schedule)
    marginal = 4 * alpha_bar + sigma2
    true = 0.5 * (LOG_2PIE + np.log(beta[1:] * marginal[:-1] / marginal[1:]))
    assert (true > np.asarray(entropy.step_bounds(Gaussian(schedule), (1,)).upper)[1:]).all()


@pytest.mark.parametrize("schedule", [schedules.erase(20), schedules.erase(200, beta_1=1e-4), schedules.geometric(40)])
def test_true_entropies_of_the_heartbeat_lie_between_at_every_t(schedule):
    T = schedule.num_timesteps
    support = heartbeat.sequences(10, 5)
    h = entropy.enumerated_bits(schedule, support, range(T + 1))
    assert h[0] == pytest.approx(np.log(5))
    assert (np.diff(h) > 0).all()
    assert h[-1] < 10 * np.log(2) + 1e-9
    lower, upper = (np.asarray(b, float)[1:] for b in entropy.step_bounds(Binomial(schedule), (10,)))
    true = upper + h[:-1] - h[1:]
    assert (lower <= true + 1e-5).all()
    assert (true <= upper + 1e-5).all()
    # The best factorised model: its marginals are the true ones, so no step has less entropy than the true.
    model = optimal.finite_bits(Binomial(schedule), support, jnp.full(5, -jnp.log(5.0)))
    steps = np.asarray(entropy.model_steps(KEY, model, jnp.tile(support, (400, 1))), float)[1:]
    assert (steps[1:] > true[1:] - 0.02).all()
    assert steps[1:].sum() > true[1:].sum()


def test_enumeration_is_the_mixture_of_the_transitions():
    """H(X_t) and H_q(X_{t-1} | X_t) from the transition matrices of 4 bits themselves."""
    schedule = schedules.erase(6, beta_1=0.05)
    support = np.array([[1, 0, 0, 1], [0, 1, 0, 0], [1, 1, 1, 1]])
    strings = np.arange(16)
    distance = np.array([[bin(a ^ b).count("1") for a in strings] for b in strings])
    law = np.zeros(16)
    law[support @ [1, 2, 4, 8]] = 1 / 3
    upper = np.asarray(entropy.step_bounds(Binomial(schedule), (4,)).upper, float)
    h = entropy.enumerated_bits(schedule, support, [0, 1, 2, 3, 4, 5, 6])
    for t in range(7):
        if t > 0:
            rate = float(schedule.beta[t]) / 2
            joint = law[:, None] * rate**distance * (1 - rate) ** (4 - distance)
            law = joint.sum(0)
            conditional = -(joint * np.log(np.maximum(joint, 1e-300) / law)).sum()
            assert upper[t] + h[t - 1] - h[t] == pytest.approx(conditional, abs=2e-6)
        assert h[t] == pytest.approx(-(law * np.log(np.maximum(law, 1e-300))).sum(), abs=2e-6)


def test_enumeration_in_chunks_and_out_of_range():
    schedule = schedules.erase(4)
    one = entropy.enumerated_bits(schedule, np.zeros((1, 17)), [1, 3, 4])
    np.testing.assert_allclose(one, 17 * entropy_of_bits(np.asarray(schedule.sigma2, float)[[1, 3, 4]] / 2), rtol=1e-10)
    for dim in (0, 21):
        with pytest.raises(ValueError, match=f"got {dim}"):
            entropy.enumerated_bits(schedule, np.zeros((2, dim)), [1])


def test_model_steps_are_means_without_bias_and_traced_once():
    """At t = 1, too, and with the control variate: against plain means over many x_t."""
    schedule = schedules.erase(5, beta_1=0.05)
    support = heartbeat.sequences(6, 3)
    process = Binomial(schedule)
    model = forward_edge(optimal.finite_bits(process, support, jnp.full(3, -jnp.log(3.0))))
    x_0 = jnp.tile(support, (2000, 1))
    run = jax.jit(chex.assert_max_traces(lambda key, x: entropy.model_steps(key, model, x), n=1))
    steps = run(KEY, x_0)
    run(jax.random.key(1), x_0)
    chex.assert_shape(steps, (6,))
    chex.assert_type(steps, jnp.float32)
    assert np.isnan(steps[0])

    @jax.jit
    def plain(t):
        times = jnp.full(len(x_0), t)
        return model.reverse(process.marginal(x_0, times).sample(jax.random.key(t)), times).entropy()

    for t in range(1, 6):
        mean, stderr = bound.mean_and_stderr(plain(t))
        assert abs(float(steps[t] - mean)) < 6 * float(stderr) + 1e-5


def test_a_quasi_static_chain_produces_no_entropy_and_another_what_k_lacks():
    process = Gaussian(schedules.geometric(20, beta_1=1e-3))
    x_0 = jax.random.normal(KEY, (3000, 2))
    log_q = process.prior(x_0.shape).log_prob(x_0)
    exact = optimal.normal(process, jnp.zeros(2), jnp.eye(2))
    weights = likelihood.log_weights(KEY, exact, x_0, 1)
    np.testing.assert_allclose(log_q - likelihood.lower(weights, 1), 0, atol=1e-3)
    wrong = forward_edge(optimal.normal(process, jnp.ones(2), 0.5 * jnp.eye(2)))
    weights = likelihood.log_weights(jax.random.key(1), wrong, x_0, 1)
    k = bound.evaluate(jax.random.key(2), wrong, x_0).k
    produced, lacking = (bound.mean_and_stderr(log_q - value) for value in (likelihood.lower(weights, 1), k))
    assert produced.mean > 10 * produced.stderr
    difference = bound.mean_and_stderr(weights[:, 0] - k)
    assert abs(difference.mean) < 4 * difference.stderr
    assert abs(produced.mean - lacking.mean) < 4 * difference.stderr

"""What networks predict: conversions both ways in float32, and the reverse steps made of them."""

import itertools
from functools import partial
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpm_jax import gaussian, predictions, schedules

KEY = jax.random.key(0)
NAMES = get_args(predictions.Prediction)
VARIANCES = get_args(predictions.Variance)
SCHEDULES = {
    "linear": schedules.linear(1000),
    "cosine": schedules.cosine(1000),
    "geometric": schedules.geometric(1000, beta_1=1e-4),
    "one step": schedules.geometric(1),
}


def exact(schedule, t, x_0, noise):
    """All five in float64, from x_0 and the noise, by their definitions."""
    # From the logarithms, so that float32's rounding of one array does not contradict that of another.
    level, step = (np.asarray(a, np.float64)[t][:, None] for a in (schedule.log_nsr, schedule.log_nsr_step))
    alpha_bar, sigma2 = 1 / (1 + np.exp(level)), 1 / (1 + np.exp(-level))
    before = 1 / (1 + np.exp(step - level))
    beta = sigma2 * -np.expm1(-step)
    x_t = np.sqrt(alpha_bar) * x_0 + np.sqrt(sigma2) * noise
    # The posterior of x_{t-1} by conditioning, as in DDPM, equation 7.
    mean = np.sqrt(1 - before) * beta / sigma2 * x_0 + np.sqrt(1 - beta) * before / sigma2 * x_t
    values = {
        "x_0": x_0,
        "epsilon": noise,
        "v": np.sqrt(alpha_bar) * noise - np.sqrt(sigma2) * x_0,
        "residual": noise - np.sqrt(sigma2) * x_t,
        "perturbation": (mean - np.sqrt(1 - beta) * x_t) / np.sqrt(beta),
    }
    return x_t, values


@pytest.mark.parametrize(("source", "target"), list(itertools.product(NAMES, NAMES)))
@pytest.mark.parametrize("name", SCHEDULES)
def test_conversions_at_every_end_of_time(name, source, target):
    """float32 against the definitions in float64; the error allowed is what rounding `source` itself comes to."""
    schedule = SCHEDULES[name]
    T = schedule.num_timesteps
    t = np.unique([1, min(2, T), -(-T // 2), T])
    rng = np.random.default_rng(0)
    x_0, noise = rng.standard_normal((2, len(t), 64))
    x_t, values = exact(schedule, t, x_0, noise)
    times = jnp.asarray(t, jnp.int32)
    convert = jax.jit(partial(predictions.convert, source=source, target=target))
    got = convert(schedule, jnp.asarray(values[source], jnp.float32), jnp.asarray(x_t, jnp.float32), times)
    assert got.dtype == jnp.float32
    assert got.shape == x_t.shape
    signal, sigma = (np.sqrt(np.asarray(a, np.float64))[t][:, None] for a in (schedule.alpha_bar, schedule.sigma2))
    lost = {"x_0": 1 / sigma, "epsilon": 1 / signal}.get(source, 1.0)
    np.testing.assert_array_less(np.abs(got - values[target]), 3e-6 * lost * (1 + np.abs(x_t)) + 3e-6 / sigma)


@given(t=st.integers(1, 1000), seed=st.integers(0, 2**16), pair=st.permutations(NAMES).map(lambda names: names[:2]))
@settings(max_examples=60, deadline=None)
def test_there_and_back_again(t, seed, pair):
    schedule = SCHEDULES["cosine"]
    source, target = pair
    rng = np.random.default_rng(seed)
    value, x_t = jnp.asarray(rng.standard_normal((2, 1, 8)), jnp.float32)
    times = jnp.array([t])
    there = predictions.convert(schedule, value, x_t, times, source=source, target=target)
    back = predictions.convert(schedule, there, x_t, times, source=target, target=source)
    sigma, signal = float(schedule.sigma2[t]) ** 0.5, float(schedule.alpha_bar[t]) ** 0.5
    # The narrower the door that the value goes through, the more of its digits are lost.
    np.testing.assert_allclose(back, value, atol=1e-5 / (sigma * signal) ** 2 * 1e-1 + 1e-5)


@pytest.mark.parametrize("prediction", NAMES)
@pytest.mark.parametrize("t", [1, 2, 500, 1000])
def test_a_right_prediction_makes_the_exact_posterior(prediction, t):
    """With x_0 known, the reverse step is q(x_{t-1} | x_t, x_0), and its bound term is zero."""
    schedule = SCHEDULES["linear"]
    x_0, noise = np.random.default_rng(t).standard_normal((2, 5, 3))
    times = np.full(5, t)
    x_t, values = exact(schedule, times, x_0, noise)
    x_t, times = jnp.asarray(x_t, jnp.float32), jnp.asarray(times, jnp.int32)
    outputs = jnp.asarray(values[prediction], jnp.float32)
    p = predictions.normal_reverse(schedule, x_t, times, outputs, prediction=prediction, variance="small")
    q = gaussian.q_posterior(schedule, jnp.asarray(x_0, jnp.float32), x_t, times)
    np.testing.assert_allclose(p.mean, q.mean, atol=2e-5)
    if t > 1:
        np.testing.assert_allclose(p.variance, q.variance, rtol=1e-5)
        assert float(gaussian.kl(q, p).max()) < 1e-4


@pytest.mark.parametrize("prediction", ["residual", "v", "perturbation"])
@pytest.mark.parametrize("variance", ["mixed", "sigmoid", "large"])
@pytest.mark.parametrize("t", [1, 2, 500, 1000])
def test_zero_outputs_are_the_reverse_of_standard_normal_data(prediction, variance, t):
    """For N(0, 1) data the chain is stationary and reversible: the reverse step is the forward one."""
    schedule = schedules.geometric(1000, beta_1=1e-3)
    x_t = jnp.array([[1.3, -0.2]])
    outputs = jnp.zeros((1, predictions.num_outputs(2, variance)))
    p = predictions.normal_reverse(schedule, x_t, jnp.array([t]), outputs, prediction=prediction, variance=variance)
    expected = gaussian.forward(schedule, x_t, jnp.array([t]))
    np.testing.assert_allclose(p.mean, expected.mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(p.variance, expected.variance, rtol=1e-4)


@pytest.mark.parametrize("t", [1, 2, 30, 100])
def test_variances_by_their_definitions(t):
    schedule = schedules.linear(100)
    c = np.array([[0.7, -1.3]])
    x_t, times = jnp.array([[0.4, -2.0]]), jnp.array([t])
    beta, sigma2 = (np.asarray(a, np.float64) for a in (schedule.beta, schedule.sigma2))
    b, v = beta[t], beta[t] * sigma2[t - 1] / sigma2[t]
    low = b if t == 1 else v
    gain = np.sqrt(1 - sigma2[t - 1]) * b / sigma2[t]
    expected = {
        "mixed": v + gain**2 * sigma2[t] * np.exp(c),
        "sigmoid": 1 / (1 + np.exp(-c) * (1 - b) / b),
        "interpolated": np.exp((1 + c) / 2 * np.log(b) + (1 - c) / 2 * np.log(low)),
        "small": np.full((1, 2), low),
        "large": np.full((1, 2), b),
    }
    assert set(expected) == set(VARIANCES)
    for variance, wanted in expected.items():
        outputs = jnp.zeros((1, 2))
        if variance not in predictions.FIXED:
            outputs = jnp.concatenate([outputs, jnp.asarray(c, jnp.float32)], -1)
        p = predictions.normal_reverse(schedule, x_t, times, outputs, variance=variance)
        np.testing.assert_allclose(p.variance, wanted, rtol=2e-5)


@pytest.mark.parametrize("T", [1, 2, 1000])
@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("prediction", NAMES)
def test_every_combination_under_jit_vmap_and_grad_at_the_edges_of_time(prediction, variance, T):
    schedule = schedules.linear(T)
    x = jnp.array([[0.5, -0.4], [0.1, 2.0]])
    width = predictions.num_outputs(2, variance)

    def loss(outputs):
        p = predictions.normal_reverse(
            schedule, x, jnp.array([1, T]), outputs, prediction=prediction, variance=variance
        )
        assert p.mean.shape == p.variance.shape == x.shape
        assert p.mean.dtype == p.variance.dtype == jnp.float32
        return gaussian.log_prob(p, x).sum()

    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(loss)))(0.1 * jax.random.normal(KEY, (3, 2, width)))
    assert bool(jnp.isfinite(values).all() & jnp.isfinite(gradients).all())


def test_a_full_covariance_goes_with_any_prediction():
    schedule = schedules.linear(50)
    x_t, t = jax.random.normal(KEY, (6, 3)), jnp.array([1, 2, 10, 25, 49, 50])
    v = jax.random.normal(jax.random.key(1), (6, 3))
    shape = jnp.concatenate([jnp.full((6, 3), -0.4), jnp.zeros((6, 3))], -1)
    for prediction in NAMES:
        value = predictions.convert(schedule, v, x_t, t, source="v", target=prediction)
        outputs = jnp.concatenate([value, shape], -1)
        full = predictions.full_normal_reverse(schedule, x_t, t, outputs, prediction=prediction)
        diagonal = predictions.normal_reverse(
            schedule, x_t, t, jnp.concatenate([v, shape[:, :3]], -1), prediction="v", variance="mixed"
        )
        np.testing.assert_allclose(full.mean, diagonal.mean, atol=2e-5)
        np.testing.assert_allclose(
            full.scale_tril @ full.scale_tril.mT, diagonal.variance[..., None] * jnp.eye(3), rtol=1e-4, atol=1e-7
        )


def test_unknown_names_are_refused():
    schedule = schedules.linear(5)
    x, t = jnp.zeros((1, 2)), jnp.array([3])
    with pytest.raises(ValueError, match="source: must be one of residual, epsilon, x_0, v, perturbation, got 'eps'"):
        predictions.convert(schedule, x, x, t, source="eps", target="v")
    with pytest.raises(ValueError, match="variance: must be one of mixed"):
        predictions.normal_reverse(schedule, x, t, x, variance="fixed")

"""Losses beside the bound, against closed forms, brute force and each other."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpm_jax import binomial, bound, gaussian, objectives, optimal, predictions, schedules, timesteps
from dpm_jax.gaussian import FullNormal, Normal

KEY = jax.random.key(0)
LINEAR = schedules.linear(50)


def reverse_of(schedule, outputs_of, **names):
    return lambda x, t: predictions.normal_reverse(schedule, x, t, outputs_of(x, t), **names)


@pytest.mark.parametrize("edge", ["forward", "decoder"])
def test_simple_is_the_error_of_the_noise(edge):
    """Whatever is predicted; here epsilon itself, against the definition, with the draws that the key makes."""
    outputs_of = lambda x, t: jnp.sin(x) + 0.01 * t[:, None]  # noqa: E731
    reverse = reverse_of(LINEAR, outputs_of, prediction="epsilon", variance="small")
    x_0 = jax.random.normal(jax.random.key(1), (64, 3))
    loss = objectives.simple(KEY, LINEAR, reverse, x_0, edge=edge)
    time_key, noise_key = jax.random.split(KEY)
    u = (jax.random.uniform(time_key) + jnp.arange(64) / 64) % 1.0
    t = 2 + (u * 49).astype(jnp.int32) if edge == "forward" else 1 + (u * 50).astype(jnp.int32)
    assert int(t.min()) == (2 if edge == "forward" else 1)
    assert int(t.max()) == 50
    eps = np.asarray(jax.random.normal(noise_key, x_0.shape), np.float64)
    x_t = gaussian.q_sample(noise_key, LINEAR, x_0, t)
    expected = np.mean((np.asarray(outputs_of(x_t, t), np.float64) - eps) ** 2)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_simple_is_the_same_of_every_prediction_and_law():
    x_0 = jax.random.normal(jax.random.key(1), (32, 2))
    v_of = lambda x, t: jnp.cos(x)  # noqa: E731

    def loss(prediction):
        def reverse(x, t):
            value = predictions.convert(LINEAR, v_of(x, t), x, t, source="v", target=prediction)
            p = predictions.normal_reverse(LINEAR, x, t, value, prediction=prediction, variance="large")
            return gaussian.as_full(p) if prediction == "v" else p

        return objectives.simple(KEY, LINEAR, reverse, x_0)

    losses = [float(loss(prediction)) for prediction in ("v", "epsilon", "x_0", "residual", "perturbation")]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-4)


def test_the_best_simple_loss_of_normal_data_is_in_closed_form():
    """For data N(0, s^2) the best guess of eps leaves alpha_bar s^2 / (alpha_bar s^2 + sigma^2) of its variance."""
    s2 = 0.3
    reverse = optimal.normal(LINEAR, jnp.zeros(2), s2 * jnp.eye(2))
    x_0 = jnp.sqrt(s2) * jax.random.normal(jax.random.key(1), (200_000, 2))
    alpha_bar, sigma2 = (np.asarray(a, np.float64)[2:] for a in (LINEAR.alpha_bar, LINEAR.sigma2))
    expected = np.mean(alpha_bar * s2 / (alpha_bar * s2 + sigma2))
    assert (
        abs(float(jax.jit(partial(objectives.simple, schedule=LINEAR, reverse=reverse))(KEY, x_0=x_0)) - expected)
        < 3e-3
    )


def test_hybrid_teaches_the_mean_by_simple_and_the_variance_by_the_bound():
    x_0 = jax.random.normal(jax.random.key(1), (64, 2))

    def reverse(w, x, t):
        outputs = jnp.concatenate([w[0] * jnp.sin(x), w[1] * jnp.ones_like(x)], -1)
        return predictions.normal_reverse(LINEAR, x, t, outputs, prediction="epsilon", variance="interpolated")

    w, weight = jnp.array([0.4, 0.2]), 0.01
    simple_key, bound_key = jax.random.split(KEY)
    hybrid = jax.grad(lambda w: objectives.hybrid(KEY, LINEAR, partial(reverse, w), x_0, weight=weight))(w)
    simple = jax.grad(lambda w: objectives.simple(simple_key, LINEAR, partial(reverse, w), x_0))(w)
    k = jax.grad(lambda w: bound.estimate(bound_key, gaussian, LINEAR, partial(reverse, w), x_0).mean)(w)
    np.testing.assert_allclose(hybrid[0], simple[0], rtol=1e-4)
    np.testing.assert_allclose(hybrid[1], -weight * k[1] / 2, rtol=1e-3)
    assert abs(float(simple[1])) < 1e-6


def test_sample_mse_of_normals_by_drawing():
    """The closed form against the mean over draws of x and x'."""
    reverse = reverse_of(LINEAR, lambda x, t: jnp.concatenate([jnp.sin(x), x], -1))
    x_0 = jnp.broadcast_to(jnp.array([0.3, -1.0]), (40_000, 2))
    got = float(objectives.sample_mse(KEY, gaussian, LINEAR, reverse, x_0))
    t = timesteps.low_discrepancy(jax.random.key(2), 40_000, 50).t
    x_t = gaussian.q_sample(jax.random.key(3), LINEAR, x_0, t)
    x = gaussian.sample(jax.random.key(4), gaussian.q_posterior(LINEAR, x_0, x_t, t))
    y = gaussian.sample(jax.random.key(5), reverse(x_t, t))
    drawn = np.asarray((x - y) ** 2).mean(1)
    assert abs(got - drawn.mean()) < 5 * drawn.std() / np.sqrt(len(drawn))


def test_sample_mse_of_bits_is_how_often_they_differ():
    schedule = schedules.erase(6)
    x_0 = jnp.broadcast_to(jnp.array([1.0, 0.0, 1.0]), (5, 3))
    reverse = lambda x, t: binomial.denoised_reverse(schedule, x, t, 2 * x - 0.3)  # noqa: E731
    # Each t once: the grid of five times falls on each of 2..6.
    got = float(objectives.sample_mse(KEY, binomial, schedule, reverse, x_0))
    time_key, noise_key = jax.random.split(KEY)
    t = timesteps.low_discrepancy(time_key, 5, 6).t
    assert sorted(np.asarray(t)) == [2, 3, 4, 5, 6]
    x_t = binomial.q_sample(noise_key, schedule, x_0, t)
    q = np.asarray(jax.nn.sigmoid(binomial.q_posterior(schedule, x_0, x_t, t).logits), np.float64)
    p = np.asarray(jax.nn.sigmoid(reverse(x_t, t).logits), np.float64)
    differ = sum((q if a else 1 - q) * (p if b else 1 - p) for a, b in itertools.product((0, 1), repeat=2) if a != b)
    np.testing.assert_allclose(got, differ.mean(), rtol=1e-5)


def test_sample_mse_wants_the_narrowest_law():
    """What it loses: its gradient narrows a variance that is right, where that of K leaves it alone."""
    s2, schedule = 0.5, schedules.geometric(20, beta_1=1e-3)
    exact = optimal.normal(schedule, jnp.zeros(1), s2 * jnp.eye(1))
    x_0 = jnp.sqrt(s2) * jax.random.normal(jax.random.key(1), (50_000, 1))

    def widened(log_scale):
        def reverse(x, t):
            p = exact(x, t)
            return Normal(p.mean, (p.scale_tril[..., 0] * jnp.exp(log_scale)) ** 2)

        return reverse

    mse = jax.grad(lambda c: objectives.sample_mse(KEY, gaussian, schedule, widened(c), x_0))(0.0)
    k = jax.grad(lambda c: -bound.estimate(KEY, gaussian, schedule, widened(c), x_0).mean)(0.0)
    assert float(mse) > 0.01
    assert abs(float(k)) < 0.3  # 19 terms, each of second derivative 2
    assert float(jax.grad(lambda c: -bound.estimate(KEY, gaussian, schedule, widened(c), x_0).mean)(-0.2)) < -2


OBJECTIVES = {
    "bound": lambda key, kernel, schedule, reverse, x: -bound.estimate(key, kernel, schedule, reverse, x).mean,
    "simple": lambda key, kernel, schedule, reverse, x: objectives.simple(key, schedule, reverse, x),
    "hybrid": lambda key, kernel, schedule, reverse, x: objectives.hybrid(key, schedule, reverse, x),
    "sample_mse": objectives.sample_mse,
}


@pytest.mark.parametrize("T", [2, 1000])
@pytest.mark.parametrize(
    ("name", "law"),
    [
        (name, law)
        for name in OBJECTIVES
        for law in ("normal", "full", "bits")
        if not (law == "bits" and name in ("simple", "hybrid"))
    ],
)
def test_gradients_shapes_and_dtypes_of_every_objective(name, law, T):
    """Under jit and vmap, one trace, gradients against finite differences."""
    kernel = binomial if law == "bits" else gaussian
    schedule = schedules.erase(T) if law == "bits" else schedules.linear(T, beta_1=1e-3, beta_final=0.02)
    x_0 = jax.random.normal(jax.random.key(1), (32, 2))
    x_0 = (x_0 > 0).astype(jnp.float32) if law == "bits" else x_0
    traces = []

    def loss(w, key):
        traces.append(0)

        def reverse(x, t):
            if law == "bits":
                return binomial.denoised_reverse(schedule, x, t, w * (2 * x - 1))
            if law == "full":
                outputs = jnp.concatenate([w * x, jnp.full((len(x), 3), w)], -1)
                return predictions.full_normal_reverse(schedule, x, t, outputs, prediction="v")
            outputs = jnp.concatenate([w * x, jnp.full_like(x, w)], -1)
            return predictions.normal_reverse(schedule, x, t, outputs, prediction="epsilon", variance="interpolated")

        return OBJECTIVES[name](key, kernel, schedule, reverse, x_0)

    run = jax.jit(jax.vmap(jax.value_and_grad(loss)))
    w, keys = jnp.array([0.1, 0.3]), jax.random.split(KEY, 2)
    value, gradient = run(w, keys)
    run(w + 0.1, keys)
    assert len(traces) == 1
    assert value.dtype == gradient.dtype == jnp.float32
    assert value.shape == gradient.shape == (2,)
    assert np.isfinite(value).all()
    if name == "hybrid":
        return  # a stopped gradient is not that of the value
    h = 1e-2
    up, down = run(w + h, keys)[0], run(w - h, keys)[0]
    np.testing.assert_allclose(gradient, (up - down) / (2 * h), rtol=3e-2, atol=2e-3 * float(jnp.abs(value).max()))


def test_kinds_of_laws_have_their_variances():
    tril = jnp.array([[[0.5, 0.0], [0.3, 0.4]]])
    np.testing.assert_allclose(gaussian.variance(FullNormal(jnp.zeros((1, 2)), tril)), [[0.25, 0.25]], rtol=1e-6)
    np.testing.assert_allclose(gaussian.variance(Normal(jnp.zeros((1, 2)), jnp.array(3.0))), [[3.0, 3.0]])
    logits = jnp.array([[0.7, -jnp.inf, 50.0]])
    rate = 1 / (1 + np.exp(-0.7))
    np.testing.assert_allclose(binomial.variance(binomial.Bernoulli(logits)), [[rate * (1 - rate), 0, 0]], atol=1e-6)

"""Predictions of networks: conversions both ways in float32, and the reverse steps made of them."""

import itertools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpm_jax import Bernoulli, Binomial, Gaussian, predictions, schedules

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


def step(schedule, outputs, x_t, t, **options):
    """The reverse step of a model whose network has these outputs."""
    return predictions.gaussian(Gaussian(schedule), lambda x, t: outputs, **options).reverse(x_t, t)


@pytest.mark.parametrize("name", SCHEDULES)
def test_conversions_at_all_times(name):
    """float32 against the definitions in float64; the error allowed is what rounding the source itself comes to."""
    schedule = SCHEDULES[name]
    T = schedule.num_timesteps
    t = np.unique(np.r_[1, min(2, T), np.linspace(1, T, 40).round()]).astype(int)
    rng = np.random.default_rng(0)
    x_0, noise = rng.standard_normal((2, len(t), 64))
    x_t, values = exact(schedule, t, x_0, noise)
    pairs = list(itertools.product(NAMES, NAMES))

    @jax.jit
    def convert(values, x_t, t):
        return [predictions.convert(schedule, values[a], x_t, t, source=a, target=b) for a, b in pairs]

    given = {source: jnp.asarray(value, jnp.float32) for source, value in values.items()}
    converted = convert(given, jnp.asarray(x_t, jnp.float32), jnp.asarray(t, jnp.int32))
    signal, sigma = (np.sqrt(np.asarray(a, np.float64))[t][:, None] for a in (schedule.alpha_bar, schedule.sigma2))
    for (source, target), got in zip(pairs, converted, strict=True):
        assert got.dtype == jnp.float32
        assert got.shape == x_t.shape
        lost = {"x_0": 1 / sigma, "epsilon": 1 / signal}.get(source, 1.0)
        most = 3e-6 * lost * (1 + np.abs(x_t)) + 3e-6 / sigma
        np.testing.assert_array_less(np.abs(got - values[target]), most, err_msg=f"{source}, {target}")


def test_a_right_prediction_makes_the_exact_posterior():
    """With x_0 known, the reverse step is q(x_{t-1} | x_t, x_0), and its bound term is zero."""
    schedule = SCHEDULES["linear"]
    x_0, noise = np.random.default_rng(0).standard_normal((2, 20, 3))
    t = np.repeat([1, 2, 500, 1000], 5)
    x_t, values = exact(schedule, t, x_0, noise)
    x_t, times = jnp.asarray(x_t, jnp.float32), jnp.asarray(t, jnp.int32)

    @jax.jit
    def steps(values):
        laws = [step(schedule, values[name], x_t, times, prediction=name, variance="small") for name in NAMES]
        q = Gaussian(schedule).posterior(jnp.asarray(x_0, jnp.float32), x_t, times)
        return q, laws, [q.kl(p) for p in laws]

    q, laws, divergences = steps({name: jnp.asarray(value, jnp.float32) for name, value in values.items()})
    for p, kl in zip(laws, divergences, strict=True):
        np.testing.assert_allclose(p.mean, q.mean, atol=2e-5)
        np.testing.assert_allclose(p.variance[5:], q.variance[5:], rtol=1e-5)
        assert float(kl[5:].max()) < 1e-4


def test_zero_outputs_are_the_reverse_of_standard_normal_data():
    """For N(0, 1) data the chain is stationary and reversible: the reverse step is the forward one."""
    schedule = schedules.geometric(1000, beta_1=1e-3)
    x_t, t = jnp.broadcast_to(jnp.array([[1.3, -0.2]]), (4, 2)), jnp.array([1, 2, 500, 1000])
    ways = list(itertools.product(["residual", "v", "perturbation"], ["mixed", "sigmoid", "large"]))

    @jax.jit
    def laws():
        zeros = {variance: jnp.zeros((4, predictions.num_outputs(2, variance))) for variance in VARIANCES}
        steps = [step(schedule, zeros[v], x_t, t, prediction=p, variance=v) for p, v in ways]
        return Gaussian(schedule).forward(x_t, t), steps

    expected, found = laws()
    for way, p in zip(ways, found, strict=True):
        np.testing.assert_allclose(p.mean, expected.mean, rtol=1e-4, atol=1e-6, err_msg=str(way))
        np.testing.assert_allclose(p.variance, expected.variance, rtol=1e-4, err_msg=str(way))


def test_variances_by_their_definitions():
    schedule = schedules.linear(100)
    c = np.array([[0.7, -1.3]])
    x_t, t = jnp.broadcast_to(jnp.array([[0.4, -2.0]]), (4, 2)), np.array([1, 2, 30, 100])
    beta, sigma2 = (np.asarray(a, np.float64) for a in (schedule.beta, schedule.sigma2))
    b = beta[t][:, None]
    v = b * (sigma2[t - 1] / sigma2[t])[:, None]
    low = np.where(t[:, None] == 1, b, v)
    gain = (np.sqrt(1 - sigma2[t - 1]) * beta[t] / sigma2[t])[:, None]
    expected = {
        "mixed": v + gain**2 * sigma2[t][:, None] * np.exp(c),
        "sigmoid": 1 / (1 + np.exp(-c) * (1 - b) / b),
        "interpolated": np.exp((1 + c) / 2 * np.log(b) + (1 - c) / 2 * np.log(low)),
        "small": np.broadcast_to(low, (4, 2)),
        "large": np.broadcast_to(b, (4, 2)),
    }
    assert set(expected) == set(VARIANCES)

    @jax.jit
    def laws():
        fixed = jnp.zeros((4, 2))
        learned = jnp.concatenate([fixed, jnp.broadcast_to(jnp.asarray(c, jnp.float32), (4, 2))], -1)
        return {
            variance: step(
                schedule, fixed if variance in predictions.FIXED else learned, x_t, jnp.asarray(t), variance=variance
            )
            for variance in VARIANCES
        }

    for variance, p in laws().items():
        np.testing.assert_allclose(p.variance, expected[variance], rtol=2e-5, err_msg=variance)


@pytest.mark.parametrize("T", [1, 1000])
def test_every_combination_under_jit_vmap_and_grad_at_the_edges_of_time(T):
    schedule = schedules.linear(T)
    x = jnp.array([[0.5, -0.4], [0.1, 2.0]])
    ways = list(itertools.product(NAMES, VARIANCES))

    def losses(outputs):
        found = []
        for prediction, variance in ways:
            of_way = outputs[:, : predictions.num_outputs(2, variance)]
            p = step(schedule, of_way, x, jnp.array([1, T]), prediction=prediction, variance=variance)
            assert p.mean.shape == p.variance.shape == x.shape
            assert p.mean.dtype == p.variance.dtype == jnp.float32
            found.append(p.log_prob(x).sum())
        return jnp.stack(found)

    outputs = 0.1 * jax.random.normal(KEY, (3, 2, 4))
    values, gradients = jax.jit(jax.vmap(lambda o: (losses(o), jax.jacrev(losses)(o))))(outputs)
    assert bool(jnp.isfinite(values).all() & jnp.isfinite(gradients).all())


def test_the_denoiser_of_an_interpolated_variance_is_as_near_as_a_law_comes():
    """Its posterior mixture is the step wherever that is no narrower than q(x_{t-1} | x_t, x_0), and that elsewhere."""
    process = Gaussian(schedules.linear(100))
    x_t, t = jax.random.normal(KEY, (6, 2)), jnp.array([1, 2, 30, 50, 70, 100])
    c = jnp.where(jnp.arange(6) % 2 == 0, 0.7, -1.4)[:, None] * jnp.ones((6, 2))
    outputs = jnp.concatenate([0.3 * x_t, c], -1)

    @jax.jit
    def laws():
        model = predictions.gaussian(process, lambda x, t: outputs, variance="interpolated")
        start = model.denoised(x_t, t)
        return model.reverse(x_t, t), process.posterior(start, x_t, t), process.posterior(start.mean, x_t, t)

    p, mixture, narrowest = laws()
    np.testing.assert_allclose(mixture.mean, p.mean, atol=1e-6)
    np.testing.assert_allclose(mixture.variance, jnp.maximum(p.variance, narrowest.variance), rtol=1e-4)
    assert (np.asarray(mixture.variance > p.variance).any(1) == [False, True, False, True, False, True]).all()


def test_bits_are_predicted_in_two_ways():
    """Logits of x_0; and what is added to those of a forward step, where zeros are exact for fair coins."""
    process = Binomial(schedules.erase(10))
    x_t, t = jax.random.bernoulli(KEY, 0.5, (4, 3)).astype(jnp.float32), jnp.array([1, 2, 5, 10])
    z = jax.random.normal(jax.random.key(1), (4, 3))
    np.testing.assert_array_equal(predictions.binomial(process, lambda x, t: z).denoised(x_t, t).logits, z)
    zeros = predictions.binomial(process, lambda x, t: jnp.zeros((4, 3)), prediction="perturbation").reverse(x_t, t)
    coins = process.posterior(Bernoulli(process.marginal(x_t, t).logits), x_t, t)
    np.testing.assert_allclose(zeros.logits, coins.logits, rtol=1e-4, atol=1e-5)
    moved = predictions.binomial(process, lambda x, t: z, prediction="perturbation").reverse(x_t, t)
    np.testing.assert_allclose(moved.logits, zeros.logits + z, rtol=1e-6)
    with pytest.raises(ValueError, match="prediction: must be one of x_0, perturbation, got 'v'"):
        predictions.binomial(process, lambda x, t: z, prediction="v")


def test_a_full_covariance_goes_with_any_prediction():
    schedule = schedules.linear(50)
    x_t, t = jax.random.normal(KEY, (6, 3)), jnp.array([1, 2, 10, 25, 49, 50])
    v = jax.random.normal(jax.random.key(1), (6, 3))
    shape = jnp.concatenate([jnp.full((6, 3), -0.4), jnp.zeros((6, 3))], -1)

    @jax.jit
    def laws():
        diagonal = step(schedule, jnp.concatenate([v, shape[:, :3]], -1), x_t, t, prediction="v")
        values = [predictions.convert(schedule, v, x_t, t, source="v", target=name) for name in NAMES]
        outputs = [jnp.concatenate([value, shape], -1) for value in values]
        return diagonal, [
            predictions.full_gaussian(Gaussian(schedule), lambda x, t, o=o: o, prediction=name).reverse(x_t, t)
            for name, o in zip(NAMES, outputs, strict=True)
        ]

    diagonal, several = laws()
    for full in several:
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
        step(schedule, x, x, t, variance="fixed")

"""The Gaussian kernel against float64 closed forms, SciPy and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from dpm_jax import gaussian, predictions, schedules

KEY = jax.random.key(0)


def full_law(key, batch, dim):
    factor = jax.random.normal(key, (batch, dim, dim))
    covariance = factor @ factor.mT + 0.3 * jnp.eye(dim)
    mean = jax.random.normal(jax.random.fold_in(key, 1), (batch, dim))
    return gaussian.FullNormal(mean, jnp.linalg.cholesky(covariance)), covariance


@pytest.mark.parametrize("T", [1, 5, 1000])
def test_single_steps_compose_to_the_marginal(T):
    schedule = schedules.linear(T)
    x_0 = jnp.array([[1.5, -0.5]])
    mean, variance = np.asarray(x_0, np.float64), np.zeros((1, 2))
    for t in range(1, T + 1):
        step = gaussian.forward(schedule, jnp.asarray(mean, jnp.float32), jnp.array([t]))
        beta = float(step.variance[0, 0])
        mean, variance = np.asarray(step.mean, np.float64), (1 - beta) * variance + beta
    direct = gaussian.marginal(schedule, x_0, jnp.array([T]))
    np.testing.assert_allclose(direct.mean, mean, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(direct.variance, variance, rtol=1e-4)


def test_q_sample_has_the_marginals_moments():
    schedule = schedules.geometric(50)
    x_0 = jnp.full((200_000, 1), 0.7)
    for t in (1, 25, 50):
        times = jnp.full(len(x_0), t, jnp.int32)
        x_t = jax.jit(gaussian.q_sample)(KEY, schedule, x_0, times)
        law = gaussian.marginal(schedule, x_0[:1], times[:1])
        sd = float(jnp.sqrt(law.variance[0, 0]))
        assert abs(float(x_t.mean() - law.mean[0, 0])) < 4 * sd / np.sqrt(len(x_0))
        assert abs(float(x_t.std()) / sd - 1) < 4 / np.sqrt(2 * len(x_0))


def test_at_time_zero_nothing_has_happened():
    schedule = schedules.geometric(5)
    x_0 = jnp.array([[0.3, -2.0]])
    np.testing.assert_array_equal(gaussian.q_sample(KEY, schedule, x_0, jnp.array([0])), x_0)


@pytest.mark.parametrize("T", [1, 2, 40, 1000])
@pytest.mark.parametrize("beta_1", [1e-2, 3e-7])
def test_posterior_is_bayes_rule_in_float64(T, beta_1):
    """q(x_{t-1} | x_t, x_0) from the product of q(x_t | x_{t-1}) and q(x_{t-1} | x_0), by precisions."""
    schedule = schedules.geometric(T, beta_1=beta_1)
    nu = np.exp(np.asarray(schedule.log_nsr, np.float64))
    alpha_bar = 1 / (1 + nu)
    for t in sorted({2, max(T // 2, 2), T} & set(range(2, T + 1))):
        sigma2_prev = nu[t - 1] / (1 + nu[t - 1])
        # nu_t - nu_{t-1} by the increments, which float32 levels have lost.
        beta = float(schedule.beta[t])
        precision = 1 / sigma2_prev + (1 - beta) / beta
        x_0, x_t = 0.8, -0.3
        mean = (np.sqrt(alpha_bar[t - 1]) * x_0 / sigma2_prev + np.sqrt(1 - beta) * x_t / beta) / precision
        q = gaussian.q_posterior(schedule, jnp.array([[x_0]]), jnp.array([[x_t]]), jnp.array([t]))
        np.testing.assert_allclose(q.variance[0, 0], 1 / precision, rtol=1e-4)
        np.testing.assert_allclose(q.mean[0, 0], mean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("T", [1, 1000])
def test_posterior_at_the_first_step_is_the_data(T):
    schedule = schedules.geometric(T)
    x_0, x_1 = jnp.array([[0.4]]), jnp.array([[3.0]])
    q = gaussian.q_posterior(schedule, x_0, x_1, jnp.array([1]))
    np.testing.assert_array_equal(q.mean, x_0)
    np.testing.assert_array_equal(q.variance, 0)


def test_posterior_where_the_last_step_erases_everything():
    schedule = schedules.erase(10)
    x_0, x_t = jnp.array([[0.4]]), jnp.array([[3.0]])
    q = gaussian.q_posterior(schedule, x_0, x_t, jnp.array([10]))
    p = gaussian.marginal(schedule, x_0, jnp.array([9]))
    np.testing.assert_allclose(q.mean, p.mean, rtol=1e-6)
    np.testing.assert_allclose(q.variance, p.variance, rtol=1e-6)


def test_full_reverse_with_a_diagonal_factor_is_the_diagonal_one():
    schedule = schedules.geometric(30)
    x_t = jax.random.normal(KEY, (7, 3))
    t = jnp.array([1, 2, 5, 10, 20, 29, 30])
    outputs = 0.5 * jax.random.normal(jax.random.key(1), (7, 6))
    diagonal = predictions.normal_reverse(schedule, x_t, t, outputs)
    full = predictions.full_normal_reverse(schedule, x_t, t, jnp.concatenate([outputs, jnp.zeros((7, 3))], 1))
    np.testing.assert_allclose(full.mean, diagonal.mean, rtol=1e-6)
    covariance = full.scale_tril @ full.scale_tril.mT
    np.testing.assert_allclose(covariance, diagonal.variance[..., None] * jnp.eye(3), rtol=1e-5, atol=1e-12)


def test_full_reverse_adds_the_spread_of_x_0():
    schedule = schedules.geometric(30)
    x_t, t = jax.random.normal(KEY, (1, 2)), jnp.array([12])
    outputs = jnp.array([[0.0, 0.0, 0.3, -0.4, 0.9]])
    p = predictions.full_normal_reverse(schedule, x_t, t, outputs)
    factor = np.array([[np.exp(0.15), 0], [0.9, np.exp(-0.2)]])
    posterior = gaussian.q_posterior(schedule, x_t, x_t, t)
    r = np.exp(-float(schedule.log_nsr_step[12]))
    b2 = float(schedule.alpha_bar[11]) * (1 - r) ** 2
    expected = float(posterior.variance[0, 0]) * np.eye(2) + b2 * float(schedule.sigma2[12]) * factor @ factor.T
    np.testing.assert_allclose((p.scale_tril @ p.scale_tril.mT)[0], expected, rtol=1e-5)


@pytest.mark.parametrize("dim", [1, 2, 4])
def test_full_laws_against_scipy(dim):
    p, covariance = full_law(KEY, 5, dim)
    x = jax.random.normal(jax.random.key(2), (5, dim))
    for i in range(5):
        law = scipy.stats.multivariate_normal(np.asarray(p.mean[i], float), np.asarray(covariance[i], float))
        np.testing.assert_allclose(gaussian.log_prob(p, x)[i], law.logpdf(np.asarray(x[i], float)), rtol=2e-4)
        np.testing.assert_allclose(gaussian.entropy(p)[i], law.entropy(), rtol=1e-4)


def test_diagonal_laws_against_scipy():
    p = gaussian.Normal(jnp.array([[0.5, -1.0]]), jnp.array([[0.25, 4.0]]))
    x = np.array([[0.1, 0.2]])
    sd = np.array([0.5, 2.0])
    expected = scipy.stats.norm.logpdf(x, np.array([0.5, -1.0]), sd).sum()
    np.testing.assert_allclose(gaussian.log_prob(p, jnp.asarray(x))[0], expected, rtol=1e-6)
    np.testing.assert_allclose(gaussian.entropy(p)[0], scipy.stats.norm.entropy(0, sd).sum(), rtol=1e-6)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_kl_of_full_laws_is_the_textbook_formula(dim):
    p, covariance = full_law(KEY, 4, dim)
    q = gaussian.Normal(jax.random.normal(jax.random.key(5), (4, dim)), jnp.linspace(0.2, 2, 4 * dim).reshape(4, dim))
    for i in range(4):
        c = np.asarray(covariance[i], float)
        s = np.diag(np.asarray(q.variance[i], float))
        m = np.asarray(p.mean[i] - q.mean[i], float)
        inverse = np.linalg.inv(c)
        expected = 0.5 * (
            np.trace(inverse @ s) + m @ inverse @ m - dim + np.linalg.slogdet(c)[1] - np.linalg.slogdet(s)[1]
        )
        np.testing.assert_allclose(gaussian.kl(q, p)[i], expected, rtol=1e-4)


def test_a_variance_that_broadcasts_is_that_of_every_coordinate():
    p = gaussian.Normal(jnp.zeros((3, 4)), jnp.full((3, 1), 0.5))
    same = gaussian.Normal(jnp.zeros((3, 4)), jnp.full((3, 4), 0.5))
    x = jax.random.normal(KEY, (3, 4))
    np.testing.assert_allclose(gaussian.entropy(p), gaussian.entropy(same), rtol=1e-6)
    np.testing.assert_allclose(gaussian.log_prob(p, x), gaussian.log_prob(same, x), rtol=1e-6)
    np.testing.assert_allclose(gaussian.kl(p, gaussian.prior(x)), gaussian.kl(same, gaussian.prior(x)), rtol=1e-6)
    schedule = schedules.geometric(5)
    assert gaussian.mixed(schedule, x, jnp.ones((3, 1)), x, jnp.array([1, 2, 5])).variance.shape == (3, 4)


def test_as_full_changes_nothing():
    p = gaussian.Normal(jnp.array([[0.5, -1.0]]), jnp.array([[0.25, 4.0]]))
    q = gaussian.Normal(jnp.zeros((1, 2)), jnp.ones((1, 2)))
    np.testing.assert_allclose(gaussian.kl(q, p), gaussian.kl(q, gaussian.as_full(p)), rtol=1e-6)
    np.testing.assert_array_equal(gaussian.sample(KEY, p), gaussian.sample(KEY, gaussian.as_full(p)))


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(-8, 3), st.floats(-8, 3))
@settings(deadline=None, max_examples=60)
def test_kl_is_non_negative_and_zero_at_equality(m, n, log_v, log_w):
    q = gaussian.Normal(jnp.array([[m]], jnp.float32), jnp.exp(jnp.array([[log_v]], jnp.float32)))
    p = gaussian.Normal(jnp.array([[n]], jnp.float32), jnp.exp(jnp.array([[log_w]], jnp.float32)))
    assert float(gaussian.kl(q, p)[0]) >= -1e-6
    assert abs(float(gaussian.kl(q, q)[0])) < 1e-6


@pytest.mark.parametrize("full", [False, True])
def test_samples_have_the_laws_moments(full):
    law, covariance = full_law(KEY, 1, 2)
    n = 200_000
    if full:
        p = gaussian.FullNormal(*(jnp.repeat(a, n, 0) for a in law))
    else:
        covariance = covariance * jnp.eye(2)
        p = gaussian.Normal(jnp.repeat(law.mean, n, 0), jnp.tile(jnp.diagonal(covariance[0]), (n, 1)))
    x = np.asarray(gaussian.sample(KEY, p))
    sd = np.sqrt(np.diagonal(np.asarray(covariance[0])))
    assert (np.abs(x.mean(0) - np.asarray(law.mean[0])) < 4 * sd / np.sqrt(n)).all()
    np.testing.assert_allclose(np.cov(x.T), covariance[0], atol=6 * sd.max() ** 2 / np.sqrt(n))


def test_gradients_agree_with_finite_differences_under_jit_and_vmap():
    schedule = schedules.geometric(20)
    x_t, x_0, t = jnp.array([[0.5, -0.4]]), jnp.array([[0.2, 0.1]]), jnp.array([8])

    def loss(outputs):
        q = gaussian.q_posterior(schedule, x_0, x_t, t)
        return gaussian.kl(q, predictions.full_normal_reverse(schedule, x_t, t, outputs[None]))[0]

    points = 0.3 * jax.random.normal(KEY, (3, 5))
    gradients = jax.jit(jax.vmap(jax.grad(loss)))(points)
    for point, gradient in zip(points, gradients, strict=True):
        for i in range(5):
            h = 1e-2 * jnp.eye(5)[i]
            np.testing.assert_allclose(gradient[i], (loss(point + h) - loss(point - h)) / 2e-2, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("T", [1, 2, 1000])
@pytest.mark.parametrize("which", ["normal_reverse", "full_normal_reverse"])
def test_gradients_are_finite_at_the_edges_of_time(which, T):
    schedule = schedules.geometric(T)
    reverse = getattr(predictions, which)
    num_outputs = 5 if "full" in which else 4
    x = jnp.array([[0.5, -0.4], [0.1, 2.0]])

    def loss(outputs):
        p = reverse(schedule, x, jnp.array([1, T]), outputs)
        return gaussian.log_prob(p, x).sum()

    assert bool(jnp.isfinite(jax.grad(loss)(jnp.zeros((2, num_outputs)))).all())


def test_forward_edge_replaces_the_last_step_alone():
    schedule = schedules.geometric(10)
    reverse = gaussian.forward_edge(
        schedule, lambda x, t: predictions.full_normal_reverse(schedule, x, t, jnp.ones((len(x), 5)))
    )
    x, t = jnp.ones((2, 2)), jnp.array([1, 2])
    p = reverse(x, t)
    edge = gaussian.forward(schedule, x, jnp.array([1, 1]))
    other = predictions.full_normal_reverse(schedule, x, t, jnp.ones((2, 5)))
    np.testing.assert_allclose(p.mean[0], edge.mean[0])
    np.testing.assert_allclose(p.scale_tril[0] @ p.scale_tril[0].T, edge.variance[0] * jnp.eye(2), rtol=1e-6)
    np.testing.assert_array_equal(p.scale_tril[1], other.scale_tril[1])


def test_null_model_is_the_papers():
    """-2.047 bits a dimension for data of unit variance (section 3)."""
    x = jax.random.normal(KEY, (100_000, 1))
    assert abs(float(gaussian.null_log_prob(x).mean()) / np.log(2) + 2.047) < 0.02


def test_images_work_as_vectors_do():
    schedule = schedules.geometric(10)
    image = jax.random.normal(KEY, (3, 4, 4, 2))
    t = jnp.array([1, 5, 10])
    flat = image.reshape(3, -1)
    q, r = (gaussian.marginal(schedule, x, t) for x in (image, flat))
    assert q.mean.shape == q.variance.shape == image.shape
    np.testing.assert_allclose(gaussian.entropy(q), gaussian.entropy(r), rtol=1e-6)
    p = predictions.normal_reverse(schedule, image, t, jnp.zeros((3, 4, 4, 4)))
    assert gaussian.kl(q, p).shape == (3,)


@pytest.mark.parametrize("scale", [0.02, 0.3, 5.0, 100.0])
def test_mass_of_bins_against_scipy(scale):
    values = np.arange(16, dtype=np.float64)
    mean = np.asarray([-3.0, 0.2, 7.5, 15.4, 30.0])
    p = gaussian.Normal(jnp.asarray(mean, jnp.float32)[:, None], jnp.full((5, 1), scale**2))
    edges = np.concatenate([[-np.inf], np.arange(15) + 0.5, [np.inf]])
    masses = []
    for value in values:
        x = jnp.full((5, 1), value, jnp.float32)
        ours = gaussian.bin_log_prob(p, x, width=1.0, lowest=0.0, highest=15.0)
        assert ours.shape == (5,)
        low, high = ((edges[int(value) + i] - mean) / scale for i in (0, 1))
        flip = low + high > 0
        low, high = np.where(flip, -high, low), np.where(flip, -low, high)
        log_high, log_low = scipy.stats.norm.logcdf(high), scipy.stats.norm.logcdf(low)
        exact = log_high + np.log(-np.expm1(log_low - log_high))
        np.testing.assert_allclose(ours, exact, rtol=2e-4, atol=2e-4)
        masses.append(np.exp(np.asarray(ours, np.float64)))
    np.testing.assert_allclose(np.sum(masses, axis=0), 1, rtol=2e-4)


def test_mass_of_bins_is_differentiable_far_away():
    def loss(mean, log_scale):
        p = gaussian.Normal(jnp.full((1, 3), mean), jnp.full((1, 3), jnp.exp(2 * log_scale)))
        x = jnp.asarray([[0.0, 7.0, 255.0]])
        return gaussian.bin_log_prob(p, x, width=1.0, lowest=0.0, highest=255.0).sum()

    for mean in (-300.0, 7.2, 600.0):
        grads = jax.grad(loss, (0, 1))(mean, 1.0)
        assert np.isfinite(grads).all()
        numeric = (loss(mean + 0.05, 1.0) - loss(mean - 0.05, 1.0)) / 0.1
        np.testing.assert_allclose(grads[0], numeric, rtol=0.02, atol=0.02)

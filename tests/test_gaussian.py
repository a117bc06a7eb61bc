"""Normal laws and the Gaussian process beyond the contract: fine chains, full covariances, bins; float64 and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from dpm_jax import FullNormal, Gaussian, Normal, forward_edge, predictions, schedules

KEY = jax.random.key(0)


def full_law(key, batch, dim):
    factor = jax.random.normal(key, (batch, dim, dim))
    covariance = factor @ factor.mT + 0.3 * jnp.eye(dim)
    mean = jax.random.normal(jax.random.fold_in(key, 1), (batch, dim))
    return FullNormal(mean, jnp.linalg.cholesky(covariance)), covariance


def test_forward_steps_in_float64():
    """Test fine steps, whose change float32 cannot hold beside x, and a step that keeps nothing."""
    beta = np.array([1e-8, 0.3, 0.7, 0.8, 1.0])
    x, t = jax.random.normal(KEY, (5, 3)), jnp.arange(1, 6)
    q = Gaussian(schedules.from_beta(beta)).forward(x, t)
    keep, x_prev = np.sqrt(1 - beta)[:, None], np.asarray(x, np.float64)
    np.testing.assert_allclose(q.mean, keep * x_prev, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(q.mean_less(x), (keep - 1) * x_prev, rtol=2e-6)
    np.testing.assert_allclose(q.variance, np.tile(beta[:, None], 3), rtol=1e-6)


@pytest.mark.parametrize("beta_1", [1e-2, 3e-7])
@pytest.mark.parametrize("T", [2, 40, 1000])
def test_posterior_is_bayes_rule_in_float64(T, beta_1):
    """q(x_{t-1} | x_t, x_0) from the product of q(x_t | x_{t-1}) and q(x_{t-1} | x_0), by precisions."""
    schedule = schedules.geometric(T, beta_1=beta_1)
    nu = np.exp(np.asarray(schedule.log_nsr, np.float64))
    t = np.arange(2, T + 1)
    alpha_bar, sigma2 = 1 / (1 + nu[t - 1]), nu[t - 1] / (1 + nu[t - 1])
    # nu_t - nu_{t-1} by the increments, which float32 levels have lost.
    beta = np.asarray(schedule.beta, np.float64)[t]
    precision = 1 / sigma2 + (1 - beta) / beta
    x_0, x_t = 0.8, -0.3
    mean = (np.sqrt(alpha_bar) * x_0 / sigma2 + np.sqrt(1 - beta) * x_t / beta) / precision
    q = Gaussian(schedule).posterior(jnp.full((T - 1, 1), x_0), jnp.full((T - 1, 1), x_t), jnp.asarray(t))
    np.testing.assert_allclose(q.variance[:, 0], 1 / precision, rtol=1e-4)
    np.testing.assert_allclose(q.mean[:, 0], mean, rtol=1e-4, atol=1e-5)


def test_steps_near_the_data_differ_by_what_they_know_of_them():
    """By b_t times that, however near: the rounding of what they share, x_t and most of x_0, is not in it."""
    schedule = schedules.geometric(4000, beta_1=1e-12)
    t = np.arange(2, 1500)
    sd = np.sqrt(np.asarray(schedule.sigma2, np.float64))[t, None]
    x_t = np.random.default_rng(0).standard_normal(sd.shape).astype(np.float32)
    one, other = ((x_t + sd * z).astype(np.float32) for z in (0.7, -0.4))
    process = Gaussian(schedule)
    q, p = (process.posterior(jnp.asarray(x), jnp.asarray(x_t), jnp.asarray(t)) for x in (one, other))
    gain = -np.expm1(-np.asarray(schedule.log_nsr_step, np.float64))[t, None]
    weight = np.sqrt(1 - np.asarray(schedule.sigma2, np.float64))[t - 1, None] * gain
    expected = weight * (one.astype(np.float64) - other)
    np.testing.assert_allclose(q.mean_less(p.origin) - p.offset, expected, rtol=2e-5)


def test_full_reverse_with_a_diagonal_factor_is_the_diagonal_one():
    process = Gaussian(schedules.geometric(30))
    x_t = jax.random.normal(KEY, (7, 3))
    t = jnp.array([1, 2, 5, 10, 20, 29, 30])
    outputs = 0.5 * jax.random.normal(jax.random.key(1), (7, 6))
    diagonal = predictions.gaussian(process, lambda x, t: outputs).reverse(x_t, t)
    more = jnp.concatenate([outputs, jnp.zeros((7, 3))], 1)
    full = predictions.full_gaussian(process, lambda x, t: more).reverse(x_t, t)
    np.testing.assert_allclose(full.mean, diagonal.mean, rtol=1e-6)
    np.testing.assert_allclose(full.covariance, diagonal.variance[..., None] * jnp.eye(3), rtol=1e-5, atol=1e-12)


def test_full_reverse_adds_the_spread_of_x_0():
    process = Gaussian(schedules.geometric(30))
    schedule = process.schedule
    x_t, t = jax.random.normal(KEY, (1, 2)), jnp.array([12])
    outputs = jnp.array([[0.0, 0.0, 0.3, -0.4, 0.9]])
    p = predictions.full_gaussian(process, lambda x, t: outputs).reverse(x_t, t)
    factor = np.array([[np.exp(0.15), 0], [0.9, np.exp(-0.2)]])
    posterior = process.posterior(x_t, x_t, t)
    r = np.exp(-float(schedule.log_nsr_step[12]))
    b2 = float(schedule.alpha_bar[11]) * (1 - r) ** 2
    expected = float(posterior.variance[0, 0]) * np.eye(2) + b2 * float(schedule.sigma2[12]) * factor @ factor.T
    np.testing.assert_allclose(p.covariance[0], expected, rtol=1e-5)


@pytest.mark.parametrize("dim", [1, 4, 8])
def test_full_laws_against_scipy(dim):
    """In more dimensions than a grid has; beyond six the algebra is a loop."""
    p, covariance = full_law(KEY, 3, dim)
    q = Normal(jax.random.normal(jax.random.key(5), (3, dim)), jnp.linspace(0.2, 2, 3 * dim).reshape(3, dim))
    x = jax.random.normal(jax.random.key(2), (3, dim))
    log_p, entropy, kl = jax.jit(lambda p, q, x: (p.log_prob(x), p.entropy(), q.kl(p)))(p, q, x)
    for i in range(3):
        c, m = np.asarray(covariance[i], float), np.asarray(p.mean[i], float)
        law = scipy.stats.multivariate_normal(m, c)
        np.testing.assert_allclose(log_p[i], law.logpdf(np.asarray(x[i], float)), rtol=2e-4)
        np.testing.assert_allclose(entropy[i], law.entropy(), rtol=1e-4)
        s, m = np.diag(np.asarray(q.variance[i], float)), m - np.asarray(q.mean[i], float)
        inverse = np.linalg.inv(c)
        expected = np.trace(inverse @ s) + m @ inverse @ m - dim + np.linalg.slogdet(c)[1] - np.linalg.slogdet(s)[1]
        np.testing.assert_allclose(kl[i], 0.5 * expected, rtol=1e-4)


def test_kl_of_full_laws_in_float64():
    (p, c), (q, s) = (full_law(jax.random.key(seed), 3, 3) for seed in (1, 2))
    c, s, m = (np.asarray(a, np.float64) for a in (c, s, p.mean - q.mean))
    inverse = np.linalg.inv(c)
    trace, squares = np.einsum("bij,bji->b", inverse, s), np.einsum("bi,bij,bj->b", m, inverse, m)
    expected = 0.5 * (trace + squares - 3 + np.linalg.slogdet(c)[1] - np.linalg.slogdet(s)[1])
    np.testing.assert_allclose(jax.jit(lambda q, p: q.kl(p))(q, p), expected, rtol=1e-4)


def test_the_same_law_as_a_full_one():
    p = Normal(jnp.array([[0.5, -1.0]]), jnp.array([[0.25, 4.0]]))
    q = Normal(jnp.zeros((1, 2)), jnp.ones((1, 2)))
    full = FullNormal.of(p)
    assert FullNormal.of(full) is full
    np.testing.assert_allclose(q.kl(p), q.kl(full), rtol=1e-6)
    np.testing.assert_allclose(q.kl(p), FullNormal.of(q).kl(p), rtol=1e-6)
    np.testing.assert_array_equal(p.sample(KEY), full.sample(KEY))


def test_gradients_agree_with_finite_differences_under_jit_and_vmap():
    process = Gaussian(schedules.geometric(20))
    x_t, x_0, t = jnp.array([[0.5, -0.4]]), jnp.array([[0.2, 0.1]]), jnp.array([8])

    def loss(outputs):
        model = predictions.full_gaussian(process, lambda x, t: outputs[None])
        return process.posterior(x_0, x_t, t).kl(model.reverse(x_t, t))[0]

    points = 0.3 * jax.random.normal(KEY, (3, 5))
    gradients = jax.jit(jax.vmap(jax.grad(loss)))(points)
    steps = 1e-2 * jnp.concatenate([jnp.eye(5), -jnp.eye(5)])
    ends = jax.jit(jax.vmap(jax.vmap(loss)))(points[:, None] + steps)
    np.testing.assert_allclose(gradients, (ends[:, :5] - ends[:, 5:]) / 2e-2, rtol=2e-2, atol=2e-3)


def test_gradients_are_finite_at_the_edges_of_time():
    x = jnp.array([[0.5, -0.4], [0.1, 2.0]])

    def loss(outputs):
        for T in (1, 2, 1000):
            for make, num in ((predictions.gaussian, 4), (predictions.full_gaussian, 5)):
                model = make(Gaussian(schedules.geometric(T)), lambda x, t, num=num: outputs[:, :num])
                yield model.reverse(x, jnp.array([1, T])).log_prob(x)

    slopes = jax.jit(jax.jacrev(lambda outputs: jnp.stack(list(loss(outputs)))))(jnp.zeros((2, 5)))
    assert bool(jnp.isfinite(slopes).all())


def test_forward_edge_replaces_the_last_step_alone():
    process = Gaussian(schedules.geometric(10))
    model = predictions.full_gaussian(process, lambda x, t: jnp.ones((len(x), 5)))
    x, t = jnp.ones((2, 2)), jnp.array([1, 2])
    p, other = forward_edge(model).reverse(x, t), model.reverse(x, t)
    edge = process.forward(x, jnp.array([1, 1]))
    np.testing.assert_allclose(p.mean[0], edge.mean[0])
    np.testing.assert_allclose(p.covariance[0], edge.variance[0] * jnp.eye(2), rtol=1e-6)
    np.testing.assert_array_equal(p.scale_tril[1], other.scale_tril[1])


def test_null_model_is_the_papers():
    """-2.047 bits a dimension for data of unit variance (section 3)."""
    process = Gaussian(schedules.geometric(3))
    x = jax.random.normal(KEY, (100_000, 1))
    assert abs(float(process.null_log_prob(x).mean()) / np.log(2) + 2.047) < 0.02


@pytest.mark.parametrize("scale", [0.02, 0.3, 5.0, 100.0])
def test_mass_of_bins_against_scipy(scale):
    values = np.arange(16, dtype=np.float64)
    mean = np.asarray([-3.0, 0.2, 7.5, 15.4, 30.0])
    p = Normal(jnp.asarray(mean, jnp.float32)[:, None], jnp.full((5, 1), scale**2))
    edges = np.concatenate([[-np.inf], np.arange(15) + 0.5, [np.inf]])
    masses = []
    for value in values:
        x = jnp.full((5, 1), value, jnp.float32)
        ours = p.bin_log_prob(x, width=1.0, lowest=0.0, highest=15.0)
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
        p = Normal(jnp.full((1, 3), mean), jnp.full((1, 3), jnp.exp(2 * log_scale)))
        x = jnp.asarray([[0.0, 7.0, 255.0]])
        return p.bin_log_prob(x, width=1.0, lowest=0.0, highest=255.0).sum()

    for mean in (-300.0, 7.2, 600.0):
        grads = jax.grad(loss, (0, 1))(mean, 1.0)
        assert np.isfinite(grads).all()
        numeric = (loss(mean + 0.05, 1.0) - loss(mean - 0.05, 1.0)) / 0.1
        np.testing.assert_allclose(grads[0], numeric, rtol=0.02, atol=0.02)

"""K against closed forms; its estimates against its sum; its gradients and its traces."""

import functools
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpm_jax import binomial, bound, gaussian, optimal, predictions, schedules, timesteps, units

KEY = jax.random.key(0)
MEAN = jnp.array([0.3, -0.2])
COVARIANCE = jnp.array([[1.4, 0.5], [0.5, 0.6]])


def normal_data(num):
    return MEAN + jax.random.normal(KEY, (num, 2)) @ jnp.linalg.cholesky(COVARIANCE).T


def closed_form_bound(schedule) -> float:
    """E K in nats for N(MEAN, COVARIANCE) data and the optimal chain, in float64.

    With exact steps for t >= 2, K = -h(x_0) - KL(q(x_T) || pi) - E KL(q(x_0 | x_1) || p(x_0 | x_1)).
    """
    c, m = np.asarray(COVARIANCE, float), np.asarray(MEAN, float)
    nu = np.exp(np.asarray(schedule.log_nsr, float))
    alpha_bar, sigma2 = 1 / (1 + nu), np.where(np.isinf(nu), 1, nu / (1 + nu))
    entropy = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * c)[1]

    last_c = alpha_bar[-1] * c + sigma2[-1] * np.eye(2)
    last_m = np.sqrt(alpha_bar[-1]) * m
    prior_kl = 0.5 * (np.trace(last_c) + last_m @ last_m - 2 - np.linalg.slogdet(last_c)[1])

    # x_0 | x_1 under q and under the forward kernel run backwards, both linear in x_1.
    a = np.sqrt(alpha_bar[1])
    gain = a * c @ np.linalg.inv(a**2 * c + sigma2[1] * np.eye(2))
    s = c - a * gain @ c
    offset, slope = m - a * gain @ m, gain - a * np.eye(2)
    x1_mean, x1_c = a * m, a**2 * c + sigma2[1] * np.eye(2)
    difference = offset + slope @ x1_mean
    spread = np.trace(slope @ x1_c @ slope.T) + difference @ difference
    edge_kl = 0.5 * ((np.trace(s) + spread) / sigma2[1] - 2 + 2 * np.log(sigma2[1]) - np.linalg.slogdet(s)[1])
    return -entropy - prior_kl - edge_kl


@pytest.mark.parametrize("T", [1, 2, 7, 1000])
def test_optimal_chain_of_normal_data_has_the_closed_form_bound(T):
    """To 1e-4 bits: x_0 and the noise are sigma points, on which every second moment is exact."""
    schedule = schedules.geometric(T, beta_1=1e-3)
    # 8 points +-2 e_i in R^4 have zero mean and unit covariance; K is quadratic in (x_0, noise).
    points = 2 * jnp.concatenate([jnp.eye(4), -jnp.eye(4)])
    x_0 = MEAN + points[:, :2] @ jnp.linalg.cholesky(COVARIANCE).T

    def q_sample(key, schedule, x_0, t):
        law = gaussian.marginal(schedule, x_0, t)
        return law.mean + jnp.sqrt(law.variance) * points[:, 2:]

    kernel = SimpleNamespace(**{**vars(gaussian), "q_sample": q_sample})
    reverse = optimal.normal(schedule, MEAN, COVARIANCE)
    result = jax.jit(lambda x: bound.evaluate(KEY, kernel, schedule, reverse, x))(x_0)
    assert result.k.shape == (8,)
    assert result.k.dtype == jnp.float32
    assert abs(units.bits(float(result.k.mean()) - closed_form_bound(schedule))) < 1e-4


def test_bound_with_a_decoder_reaches_the_log_likelihood_of_normal_data():
    """With the exact p(x_0 | x_1) only the prior term is left: K = log-likelihood - KL(q(x_T) || pi)."""
    schedule = schedules.geometric(30, beta_1=1e-3)
    x_0 = normal_data(20_000)
    reverse = optimal.normal(schedule, MEAN, COVARIANCE)
    result = bound.evaluate(jax.random.key(1), gaussian, schedule, reverse, x_0, edge="decoder")
    log_p = jax.scipy.stats.multivariate_normal.logpdf(x_0, MEAN, COVARIANCE)
    mean, stderr = bound.mean_and_stderr(log_p - result.k)
    assert abs(float(mean)) < 4 * float(stderr)
    assert float(stderr) < 0.02


def test_terms_add_up_and_entropies_are_the_papers():
    schedule = schedules.geometric(12, beta_1=1e-2)
    x_0 = normal_data(50)
    reverse = optimal.normal(schedule, MEAN, COVARIANCE)
    result = bound.evaluate(KEY, gaussian, schedule, reverse, x_0)
    np.testing.assert_allclose(result.k, result.edge - result.kl - result.prior_kl, rtol=1e-6)
    np.testing.assert_allclose(result.kl_per_step.sum(), result.kl.mean(), rtol=1e-5)
    assert result.kl_per_step.shape == (13,)
    np.testing.assert_array_equal(result.kl_per_step[:2], 0)
    h = np.log(2 * np.pi * np.e)
    np.testing.assert_allclose(result.entropy_first, h + np.log(1e-2), rtol=1e-4)
    np.testing.assert_allclose(result.entropy_last, h + np.log(float(schedule.sigma2[-1])), rtol=1e-5)
    np.testing.assert_allclose(result.entropy_prior, h, rtol=1e-6)
    # Equation 14's edge, -H_q(X_1|X_0), up to (beta_1 / 2)(d - |x_0|^2), which cancels for unit variance.
    correction = 0.5 * 1e-2 * (2 - (x_0**2).sum(-1))
    np.testing.assert_allclose(result.edge, -result.entropy_first + correction, rtol=1e-4)


def test_bits_have_the_papers_edge_exactly():
    schedule = schedules.erase(10)
    x_0 = jnp.ones((3, 20))
    reverse = lambda x, t: binomial.denoised_reverse(schedule, x, t, jnp.zeros_like(x))  # noqa: E731
    result = bound.evaluate(KEY, binomial, schedule, reverse, x_0)
    np.testing.assert_allclose(result.edge, -result.entropy_first, rtol=1e-5)
    np.testing.assert_allclose(result.prior_kl, 0, atol=1e-7)
    np.testing.assert_allclose(result.entropy_last, 20 * np.log(2), rtol=1e-6)


@pytest.mark.parametrize("edge", ["forward", "decoder"])
@pytest.mark.parametrize(
    "sampler",
    [
        timesteps.uniform,
        timesteps.antithetic,
        timesteps.low_discrepancy,
        timesteps.importance(jnp.concatenate([jnp.zeros(2), jnp.linspace(3, 1, 19)])),
    ],
)
def test_estimates_are_unbiased_with_honest_errors(sampler, edge):
    schedule = schedules.geometric(20, beta_1=1e-2)
    reverse = gaussian.forward_edge(
        schedule, lambda x, t: predictions.normal_reverse(schedule, x, t, jnp.concatenate([0.2 * jnp.sin(x), -x], -1))
    )
    x_0 = normal_data(512)
    exact = jax.jit(jax.vmap(lambda k: bound.evaluate(k, gaussian, schedule, reverse, x_0, edge=edge).k.mean()))(
        jax.random.split(KEY, 200)
    )
    estimates = jax.jit(
        jax.vmap(lambda k: bound.estimate(k, gaussian, schedule, reverse, x_0, edge=edge, time_sampler=sampler))
    )(jax.random.split(jax.random.key(7), 400))
    mean, stderr = float(estimates.mean.mean()), float(estimates.mean.std() / 20)
    assert abs(mean - float(exact.mean())) < 4 * np.hypot(stderr, float(exact.std()) / np.sqrt(200))
    # x_0 is held fixed here, so the reported error, which covers its draw too, may only be larger.
    assert float(jnp.sqrt((estimates.stderr**2).mean())) > 0.9 * float(estimates.mean.std())


SAMPLERS = {
    "uniform": timesteps.uniform,
    "antithetic": timesteps.antithetic,
    "low_discrepancy": timesteps.low_discrepancy,
    "partial": functools.partial(timesteps.low_discrepancy),
    "wrapped": lambda key, num, num_timesteps: timesteps.antithetic(key, num, num_timesteps),
    "importance": timesteps.importance(jnp.arange(31.0) + 5),
    "emphasis": timesteps.emphasis(jnp.arange(31.0) + 5),
}


@pytest.mark.parametrize(
    ("sampler", "num_times"), [*((name, 1) for name in SAMPLERS), ("antithetic", 4), ("low_discrepancy", 4)]
)
def test_stated_errors_are_the_actual_ones_of_sorted_batches(sampler, num_times):
    """Over 500 batches of fresh examples, sorted by their size; several t of each example do not make them more."""
    schedule = schedules.geometric(30, beta_1=1e-2)

    def reverse(x, t):
        return predictions.normal_reverse(schedule, x, t, jnp.concatenate([0.2 * jnp.sin(x), -x], -1))

    @jax.jit
    @jax.vmap
    def run(key):
        data_key, key = jax.random.split(key)
        x_0 = jax.random.normal(data_key, (48, 2)) * jnp.array([2.0, 0.5])
        x_0 = x_0[jnp.argsort(jnp.abs(x_0[:, 0]))]
        found = bound.estimate(
            key, gaussian, schedule, reverse, x_0, time_sampler=SAMPLERS[sampler], num_times=num_times
        )
        return found.mean, found.stderr

    mean, stderr = run(jax.random.split(jax.random.key(5), 500))
    # 500 repeats give the actual error to 3 %.
    assert 0.88 < float(jnp.sqrt((stderr**2).mean()) / mean.std()) < 1.15


def test_a_draw_without_its_pair_counts_as_one():
    values = jnp.sin(jnp.arange(31.0) / 5)

    @jax.jit
    @jax.vmap
    def run(key):
        draw = timesteps.antithetic(key, 9, 30)
        terms = values[draw.t]
        return terms.mean(), timesteps.stderr_of_mean(terms, draw.design)

    mean, stderr = run(jax.random.split(KEY, 2000))
    np.testing.assert_allclose(jnp.sqrt((stderr**2).mean()), mean.std(), rtol=0.12)


@pytest.mark.parametrize("sampler", [timesteps.uniform, timesteps.antithetic, timesteps.low_discrepancy])
def test_of_one_example_no_error_is_stated(sampler):
    schedule = schedules.geometric(5)
    reverse = lambda x, t: predictions.normal_reverse(schedule, x, t, jnp.zeros((len(x), 4)))  # noqa: E731
    found = bound.estimate(KEY, gaussian, schedule, reverse, jnp.ones((1, 2)), time_sampler=sampler, num_times=3)
    assert np.isfinite(found.mean)
    assert np.isnan(found.stderr)
    assert np.isnan(bound.mean_and_stderr(found.k).stderr)
    # One pair says nothing either.
    found = bound.estimate(KEY, gaussian, schedule, reverse, jnp.ones((2, 2)), time_sampler=sampler)
    assert np.isnan(found.stderr) == (sampler is timesteps.antithetic)


def test_several_times_of_an_example_average_over_more_noise():
    schedule = schedules.geometric(20, beta_1=1e-2)
    reverse = lambda x, t: predictions.normal_reverse(schedule, x, t, jnp.zeros((len(x), 4)))  # noqa: E731
    x_0 = normal_data(32)

    def spread(num_times):
        run = lambda k: bound.estimate(k, gaussian, schedule, reverse, x_0, edge="decoder", num_times=num_times)  # noqa: E731
        found = jax.jit(jax.vmap(run))(jax.random.split(KEY, 300))
        assert found.k.shape == (300, 32)
        assert found.t.shape == found.kl.shape == (300, 32 * num_times)
        return float(found.mean.mean()), float(found.mean.std())

    (one, wide), (many, narrow) = spread(1), spread(9)
    assert abs(one - many) < 4 * np.hypot(wide, narrow) / np.sqrt(300)
    assert narrow == pytest.approx(wide / 3, rel=0.2)
    with pytest.raises(ValueError, match="num_times: must be at least 1, got 0"):
        bound.estimate(KEY, gaussian, schedule, reverse, x_0, num_times=0)


def test_low_discrepancy_beats_uniform():
    schedule = schedules.geometric(50, beta_1=1e-4)
    reverse = lambda x, t: predictions.normal_reverse(schedule, x, t, jnp.zeros((len(x), 4)))  # noqa: E731
    x_0 = 0.1 * jax.random.normal(KEY, (256, 2))

    def spread(sampler):
        run = lambda k: bound.estimate(k, gaussian, schedule, reverse, x_0, time_sampler=sampler).mean  # noqa: E731
        return float(jax.vmap(run)(jax.random.split(KEY, 200)).std())

    assert spread(timesteps.low_discrepancy) < 0.9 * spread(timesteps.uniform)


def test_bound_never_exceeds_the_limit_on_normal_data():
    x_0 = normal_data(4000)
    log_p = jax.scipy.stats.multivariate_normal.logpdf(x_0, MEAN, COVARIANCE)
    for T in (1, 3, 30):
        schedule = schedules.cosine(T)
        reverse = optimal.normal(schedule, MEAN, COVARIANCE)
        result = bound.evaluate(jax.random.key(T), gaussian, schedule, reverse, x_0)
        mean, stderr = bound.mean_and_stderr(result.k - log_p)
        assert float(mean) < 4 * float(stderr)


def test_frozen_noise_gradient_through_the_schedule():
    """dK / d(schedule) with the key held fixed, against finite differences (section 2.4.1)."""
    base = schedules.geometric(10, beta_1=1e-2)
    x_0 = normal_data(200)

    def k(c):
        schedule = schedules.learned(base, c)
        reverse = lambda x, t: predictions.normal_reverse(schedule, x, t, 0.3 * jnp.ones((len(x), 4)))  # noqa: E731
        return bound.evaluate(KEY, gaussian, schedule, reverse, x_0).k.mean()

    c = jnp.array([0.3, -0.2, 0.1])
    gradient = jax.jit(jax.grad(k))(c)
    value = jax.jit(k)
    for i in range(3):
        h = 2e-2 * jnp.eye(3)[i]
        np.testing.assert_allclose(gradient[i], (value(c + h) - value(c - h)) / 4e-2, rtol=3e-2, atol=1e-3)


def test_gradients_of_both_kernels_are_finite_at_the_edges_of_time():
    for T in (1, 2, 1000):
        for kernel, schedule, x_0, step in (
            (gaussian, schedules.geometric(T, beta_1=1e-5), normal_data(8), predictions.normal_reverse),
            (binomial, schedules.erase(T), jnp.ones((8, 3)), binomial.denoised_reverse),
        ):
            width = 4 if kernel is gaussian else 3

            def loss(w, kernel=kernel, schedule=schedule, x_0=x_0, step=step, width=width):
                reverse = lambda x, t: step(schedule, x, t, w * jnp.ones((8, width)))  # noqa: E731
                return bound.estimate(KEY, kernel, schedule, reverse, x_0).mean

            value, gradient = jax.jit(jax.value_and_grad(loss))(0.1)
            assert np.isfinite(value)
            assert np.isfinite(gradient)


def test_evaluate_traces_once():
    schedule = schedules.geometric(15)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(key, x):
        reverse = lambda x, t: predictions.normal_reverse(schedule, x, t, jnp.zeros((len(x), 4)))  # noqa: E731
        return bound.evaluate(key, gaussian, schedule, reverse, x).k

    for seed in range(3):
        chex.assert_shape(run(jax.random.key(seed), normal_data(16)), (16,))
    chex.clear_trace_counter()


@pytest.mark.parametrize("slope", [False, True])
def test_memory_of_the_exact_sum_does_not_grow_with_the_number_of_steps(slope):
    """Nor does that of its gradient, in the network and in the schedule, but for the schedule's own numbers."""

    def temporaries(T):
        base = schedules.geometric(T)

        def k(weights, c, key, x):
            schedule = schedules.learned(base, c)
            reverse = lambda x, t: predictions.normal_reverse(schedule, x, t, jnp.tanh(x @ weights))  # noqa: E731
            return bound.evaluate(key, gaussian, schedule, reverse, x).k.mean()

        run = jax.jit(jax.grad(k, argnums=(0, 1)) if slope else k)
        arguments = jnp.zeros((32, 64)), jnp.zeros(3), KEY, jnp.zeros((64, 32))
        return run.lower(*arguments).compile().memory_analysis().temp_size_in_bytes

    # 70 bytes a step for the schedule and its gradient; what is kept of a step would be 64 x 32 x 4.
    assert temporaries(2000) - temporaries(20) < 1980 * 100


def test_an_unknown_edge_is_refused():
    schedule = schedules.geometric(3)
    with pytest.raises(ValueError, match="'decoder' or a function, got 'none'"):
        bound.evaluate(KEY, gaussian, schedule, lambda x, t: gaussian.prior(x), jnp.zeros((2, 2)), edge="none")


def test_units():
    assert units.bits(np.log(8.0)) == pytest.approx(3)
    assert units.nats(units.bits(1.7)) == pytest.approx(1.7)
    assert units.bits_per_dimension(np.log(2.0) * 12, (2, 3)) == pytest.approx(2)


def test_a_discretised_decoder_bounds_the_log_probability_of_quantised_data():
    """Data on 4 of 5 grey levels, in one dimension: the entropy is known, and the best chain nearly reaches it."""
    levels, width = np.arange(5.0), 0.5
    centres = (levels - 2) * width
    chosen, weights = np.asarray([0, 1, 2, 4]), np.asarray([0.1, 0.4, 0.2, 0.3])
    schedule = schedules.geometric(400, beta_1=(0.12 * width) ** 2, nsr_final=1e4)
    points = jnp.asarray(centres[chosen], jnp.float32)[:, None]
    best = optimal.finite_points(schedule, points, jnp.log(jnp.asarray(weights, jnp.float32)))

    def reverse(x_t, t):
        p = best(x_t, jnp.maximum(t, 2))
        return gaussian.Normal(p.mean, p.scale_tril[..., 0] ** 2)

    reverse = gaussian.forward_edge(schedule, reverse)
    x_0 = points[jax.random.choice(KEY, 4, (4000,), p=jnp.asarray(weights))]
    edge = functools.partial(gaussian.bin_log_prob, width=width, lowest=centres[0], highest=centres[-1])
    result = bound.evaluate(jax.random.key(1), gaussian, schedule, reverse, x_0, edge=edge)
    entropy = -(weights * np.log(weights)).sum()
    k = bound.mean_and_stderr(result.k)
    assert k.mean < -entropy + 4 * k.stderr
    assert k.mean > -entropy - 0.03 - 4 * k.stderr
    # The same as a loss.
    estimate = bound.estimate(jax.random.key(2), gaussian, schedule, reverse, x_0, edge=edge)
    assert abs(estimate.mean - k.mean) < 5 * (estimate.stderr + k.stderr)

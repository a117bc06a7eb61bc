"""K against closed forms; its estimates against its sum; its gradients and its traces."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpm_jax import (
    Binomial,
    Gaussian,
    Model,
    Normal,
    bound,
    forward_edge,
    optimal,
    predictions,
    schedules,
    timesteps,
    units,
)
from tests.programs import equations

KEY = jax.random.key(0)
MEAN = jnp.array([0.3, -0.2])
COVARIANCE = jnp.array([[1.4, 0.5], [0.5, 0.6]])


def normal_data(num):
    return MEAN + jax.random.normal(KEY, (num, 2)) @ jnp.linalg.cholesky(COVARIANCE).T


def closed_form_bound(schedule) -> dict[str, float]:
    """E K and its terms, in nats, for N(MEAN, COVARIANCE) data and the optimal chain, in float64.

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
    k = -entropy - prior_kl - edge_kl
    # E log N(x_0; a x_1, sigma2), where x_0 - a x_1 = sigma2 x_0 - a sigma noise.
    edge = -np.log(2 * np.pi * sigma2[1]) - 0.5 * (sigma2[1] * (np.trace(c) + m @ m) + 2 * a**2)
    # E KL(q(x_T | x_0) || pi), of each x_0.
    last_kl = sigma2[-1] + 0.5 * alpha_bar[-1] * (np.trace(c) + m @ m) - 1 - np.log(sigma2[-1])
    return {"k": k, "edge": edge, "prior_kl": last_kl, "kl": edge - last_kl - k}


# 8 points +-2 e_i in R^4 have zero mean and unit covariance; K is quadratic in (x_0, noise).
POINTS = 2 * jnp.concatenate([jnp.eye(4), -jnp.eye(4)])


class SigmaPoints(Normal):
    def sample(self, key):
        return self.place(POINTS[:, 2:])


class OfSigmaPoints(Gaussian):
    """The Gaussian process, its noise the sigma points."""

    def marginal(self, x_0, t):
        law = super().marginal(x_0, t)
        return SigmaPoints(law.mean, law.variance)


@pytest.mark.parametrize("T", [1, 2, 7, 1000])
def test_optimal_chain_of_normal_data_has_the_closed_form_bound(T):
    """Agree to 1e-4 bits: x_0 and the noise are sigma points, whose second moments are exact."""
    schedule = schedules.geometric(T, beta_1=1e-3)
    x_0 = MEAN + POINTS[:, :2] @ jnp.linalg.cholesky(COVARIANCE).T
    model = optimal.normal(OfSigmaPoints(schedule), MEAN, COVARIANCE)
    result = jax.jit(lambda x: bound.evaluate(KEY, model, x))(x_0)
    assert result.k.shape == (8,)
    assert result.k.dtype == jnp.float32
    for name, exact in closed_form_bound(schedule).items():
        assert abs(units.bits(float(getattr(result, name).mean()) - exact)) < 1e-4, name


def test_bound_with_a_decoder_reaches_the_log_likelihood_of_normal_data():
    """With the exact p(x_0 | x_1) only the prior term is left: K = log-likelihood - KL(q(x_T) || pi)."""
    model = optimal.normal(Gaussian(schedules.geometric(30, beta_1=1e-3)), MEAN, COVARIANCE)
    x_0 = normal_data(20_000)
    result = bound.evaluate(jax.random.key(1), model, x_0, edge="decoder")
    log_p = jax.scipy.stats.multivariate_normal.logpdf(x_0, MEAN, COVARIANCE)
    mean, stderr = bound.mean_and_stderr(log_p - result.k)
    assert abs(float(mean)) < 4 * float(stderr)
    assert float(stderr) < 0.02


def test_estimates_with_a_decoder_reach_the_log_likelihood_of_normal_data():
    """With the exact p(x_0 | x_t), only KL(q(x_T) || pi) is lost: from three t and three x_1 per example."""
    schedule, s2 = schedules.geometric(30, beta_1=1e-3, nsr_final=2.0), 0.5

    def denoise(x_t, t):
        share = s2 / (s2 + jnp.exp(schedule.log_nsr[t]))[:, None]
        return Normal(share / jnp.sqrt(schedule.alpha_bar[t])[:, None] * x_t, s2 * (1 - share))

    x_0 = s2**0.5 * jax.random.normal(KEY, (20_000, 2))
    model = Model(Gaussian(schedule), denoise)
    result = jax.jit(lambda key: bound.estimate(key, model, x_0, edge="decoder", num_times=3))(jax.random.key(1))
    log_p = jax.scipy.stats.norm.logpdf(x_0, scale=s2**0.5).sum(-1)
    mean, stderr = bound.mean_and_stderr(log_p - result.k)
    last = (s2 + 2) / 3  # the variance of x_T
    assert abs(float(mean) - (last - 1 - np.log(last))) < 4 * float(stderr)
    assert float(stderr) < 0.05
    np.testing.assert_allclose(result.mean, result.k.mean(), rtol=1e-5)


def test_steps_add_up_and_entropies_are_the_papers():
    schedule = schedules.geometric(12, beta_1=1e-2)
    x_0 = normal_data(50)
    result = jax.jit(lambda: bound.evaluate(KEY, flat(schedule), x_0))()
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
    model = predictions.binomial(Binomial(schedules.erase(10)), lambda x, t: jnp.zeros_like(x))
    result = bound.evaluate(KEY, model, jnp.ones((3, 20)))
    np.testing.assert_allclose(result.edge, -result.entropy_first, rtol=1e-5)
    np.testing.assert_allclose(result.prior_kl, 0, atol=1e-7)
    np.testing.assert_allclose(result.entropy_last, 20 * np.log(2), rtol=1e-6)


def bent(schedule):
    """Some model that is not the best."""

    def network(x, t):
        return jnp.concatenate([0.2 * jnp.sin(x), -x], -1)

    return predictions.gaussian(Gaussian(schedule), network)


def flat(schedule):
    """The model of standard normal data."""
    return predictions.gaussian(Gaussian(schedule), lambda x, t: jnp.zeros((len(x), 4)))


SAMPLERS = {
    "uniform": timesteps.uniform,
    "antithetic": timesteps.antithetic,
    "low_discrepancy": timesteps.low_discrepancy,
    "partial": functools.partial(timesteps.low_discrepancy),
    "wrapped": lambda key, num, num_timesteps: timesteps.antithetic(key, num, num_timesteps),
    "importance": timesteps.importance(jnp.arange(31.0) + 5),
    "emphasis": timesteps.emphasis(jnp.arange(31.0) + 5),
}


@pytest.mark.parametrize("edge", ["forward", "decoder"])
def test_estimates_are_unbiased_with_honest_errors(edge):
    model = forward_edge(bent(schedules.geometric(20, beta_1=1e-2)))
    x_0 = normal_data(512)
    falling = timesteps.importance(jnp.concatenate([jnp.zeros(2), jnp.linspace(3, 1, 19)]))
    samplers = {name: SAMPLERS[name] for name in ("uniform", "antithetic", "low_discrepancy")} | {"falling": falling}

    @jax.jit
    def run():
        exact = jax.lax.map(lambda k: bound.evaluate(k, model, x_0, edge=edge).k.mean(), jax.random.split(KEY, 200))
        keys = jax.random.split(jax.random.key(7), 400)
        found = {
            name: jax.lax.map(lambda k, s=s: bound.estimate(k, model, x_0, edge=edge, time_sampler=s)[1:3], keys)
            for name, s in samplers.items()
        }
        return exact, found

    exact, found = run()
    for means, stderrs in found.values():
        mean, stderr = float(means.mean()), float(means.std() / 20)
        assert abs(mean - float(exact.mean())) < 4 * np.hypot(stderr, float(exact.std()) / np.sqrt(200))
        # x_0 is held fixed here, so the reported error, which covers its draw too, may only be larger.
        assert float(jnp.sqrt((stderrs**2).mean())) > 0.9 * float(means.std())


def test_stated_errors_are_the_actual_ones_of_sorted_batches():
    """Over 500 batches of fresh examples, sorted by their size; several t of each example do not make them more."""
    model = bent(schedules.geometric(30, beta_1=1e-2))
    cases = [*((name, 1) for name in SAMPLERS), ("antithetic", 4), ("low_discrepancy", 4)]

    @jax.jit
    @jax.vmap
    def run(key):
        data_key, key = jax.random.split(key)
        x_0 = jax.random.normal(data_key, (48, 2)) * jnp.array([2.0, 0.5])
        x_0 = x_0[jnp.argsort(jnp.abs(x_0[:, 0]))]
        return [bound.estimate(key, model, x_0, time_sampler=SAMPLERS[name], num_times=n)[1:3] for name, n in cases]

    for case, (mean, stderr) in zip(cases, run(jax.random.split(jax.random.key(5), 500)), strict=True):
        # 500 repeats give the actual error to 3 %.
        assert 0.88 < float(jnp.sqrt((stderr**2).mean()) / mean.std()) < 1.15, case


def test_the_error_of_a_grid_compares_neighbours_in_time():
    """Compare with differences of the estimates sorted by t, the last beside the first, for any order of the batch."""
    process = Gaussian(schedules.geometric(1000, beta_1=1e-4))
    model = Model.from_steps(process, lambda x, t: Normal(x, 0.01))
    found = jax.jit(lambda x_0: bound.estimate(KEY, model, x_0))(normal_data(50))
    k = np.asarray(found.k, np.float64)[np.argsort(found.t)]
    assert len(np.unique(found.t)) == 50
    np.testing.assert_allclose(found.stderr, np.sqrt(0.5 * ((k - np.roll(k, 1)) ** 2).sum()) / 50, rtol=1e-3)


@pytest.mark.parametrize("edge", ["forward", "decoder"])
@pytest.mark.parametrize("T", [1, 5])
def test_an_estimate_calls_the_model_once(T, edge):
    """For its edge and its term at t together: on examples of twice the number where both are the model's."""

    @jax.jit
    def network(x_t, t):
        return jnp.concatenate([jnp.sin(x_t), x_t], -1)

    model = predictions.gaussian(Gaussian(schedules.geometric(T)), network)
    program = jax.make_jaxpr(lambda key, x: bound.estimate(key, model, x, edge=edge).mean)(KEY, jnp.zeros((7, 2)))
    calls = [equation for equation, _ in equations(program.jaxpr) if equation.params.get("name") == "network"]
    expected = {(1, "forward"): [], (1, "decoder"): [(7, 2)], (5, "forward"): [(7, 2)], (5, "decoder"): [(14, 2)]}
    assert [call.invars[0].aval.shape for call in calls] == expected[T, edge]


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
    model = flat(schedules.geometric(5))
    found = jax.jit(lambda x: bound.estimate(KEY, model, x, time_sampler=sampler, num_times=3))(jnp.ones((1, 2)))
    assert np.isfinite(found.mean)
    assert np.isnan(found.stderr)
    assert np.isnan(bound.mean_and_stderr(found.k).stderr)
    # One pair says nothing either.
    found = jax.jit(lambda x: bound.estimate(KEY, model, x, time_sampler=sampler))(jnp.ones((2, 2)))
    assert np.isnan(found.stderr) == (sampler is timesteps.antithetic)


def test_several_times_of_an_example_average_over_more_noise():
    model = flat(schedules.geometric(20, beta_1=1e-2))
    x_0 = normal_data(32)

    def spread(num_times):
        run = lambda k: bound.estimate(k, model, x_0, edge="decoder", num_times=num_times)  # noqa: E731
        found = jax.jit(jax.vmap(run))(jax.random.split(KEY, 300))
        assert found.k.shape == (300, 32)
        assert found.t.shape == found.kl.shape == (300, 32 * num_times)
        return float(found.mean.mean()), float(found.mean.std())

    (one, wide), (many, narrow) = spread(1), spread(9)
    assert abs(one - many) < 4 * np.hypot(wide, narrow) / np.sqrt(300)
    assert narrow == pytest.approx(wide / 3, rel=0.2)
    with pytest.raises(ValueError, match="num_times: must be at least 1, got 0"):
        bound.estimate(KEY, model, x_0, num_times=0)


def test_low_discrepancy_beats_uniform():
    model = flat(schedules.geometric(50, beta_1=1e-4))
    x_0 = 0.1 * jax.random.normal(KEY, (256, 2))

    def spread(sampler):
        run = lambda k: bound.estimate(k, model, x_0, time_sampler=sampler).mean  # noqa: E731
        return float(jax.jit(jax.vmap(run))(jax.random.split(KEY, 200)).std())

    assert spread(timesteps.low_discrepancy) < 0.9 * spread(timesteps.uniform)


def test_bound_never_exceeds_the_limit_on_normal_data():
    x_0 = normal_data(4000)
    log_p = jax.scipy.stats.multivariate_normal.logpdf(x_0, MEAN, COVARIANCE)
    for T in (1, 3, 30):
        model = optimal.normal(Gaussian(schedules.cosine(T)), MEAN, COVARIANCE)
        result = bound.evaluate(jax.random.key(T), model, x_0)
        mean, stderr = bound.mean_and_stderr(result.k - log_p)
        assert float(mean) < 4 * float(stderr)


def test_frozen_noise_gradient_through_the_schedule():
    """dK / d(schedule) with the key held fixed, against finite differences (section 2.4.1)."""
    base = schedules.geometric(10, beta_1=1e-2)
    x_0 = normal_data(200)

    def k(c):
        process = Gaussian(schedules.learned(base, c))
        model = predictions.gaussian(process, lambda x, t: 0.3 * jnp.ones((len(x), 4)))
        return bound.evaluate(KEY, model, x_0).k.mean()

    c = jnp.array([0.3, -0.2, 0.1])
    gradient = jax.jit(jax.grad(k))(c)
    value = jax.jit(k)
    for i in range(3):
        h = 2e-2 * jnp.eye(3)[i]
        np.testing.assert_allclose(gradient[i], (value(c + h) - value(c - h)) / 4e-2, rtol=3e-2, atol=1e-3)


def test_gradients_of_both_processes_are_finite_at_the_edges_of_time():
    def losses(w):
        for T in (1, 2, 1000):
            process = Gaussian(schedules.geometric(T, beta_1=1e-5))
            model = predictions.gaussian(process, lambda x, t: w * jnp.ones((8, 4)))
            yield bound.estimate(KEY, model, normal_data(8)).mean
            model = predictions.binomial(Binomial(schedules.erase(T)), lambda x, t: w * jnp.ones((8, 3)))
            yield bound.estimate(KEY, model, jnp.ones((8, 3))).mean

    every = jax.jit(lambda w: (jnp.stack(list(losses(w))), jax.jacfwd(lambda w: jnp.stack(list(losses(w))))(w)))
    values, forward = every(0.1)
    backward = jax.jit(jax.grad(lambda w: jnp.stack(list(losses(w))).sum()))(0.1)
    assert np.isfinite(values).all()
    assert np.isfinite(forward).all()
    np.testing.assert_allclose(backward, forward.sum(), rtol=1e-4, atol=1e-4)


def test_evaluate_traces_once():
    schedule = schedules.geometric(15)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(key, x):
        return bound.evaluate(key, flat(schedule), x).k

    for seed in range(3):
        chex.assert_shape(run(jax.random.key(seed), normal_data(16)), (16,))
    chex.clear_trace_counter()


@pytest.mark.parametrize("slope", [False, True])
def test_memory_of_the_exact_sum_does_not_grow_with_the_number_of_steps(slope):
    """Nor does that of its gradient, in the network and in the schedule, but for the schedule's own numbers."""

    def temporaries(T):
        base = schedules.geometric(T)

        def k(weights, c, key, x):
            model = predictions.gaussian(Gaussian(schedules.learned(base, c)), lambda x, t: jnp.tanh(x @ weights))
            return bound.evaluate(key, model, x).k.mean()

        run = jax.jit(jax.grad(k, argnums=(0, 1)) if slope else k)
        arguments = jnp.zeros((32, 64)), jnp.zeros(3), KEY, jnp.zeros((64, 32))
        return run.lower(*arguments).compile().memory_analysis().temp_size_in_bytes

    # 70 bytes a step for the schedule and its gradient; what is kept of a step would be 64 x 32 x 4.
    assert temporaries(2000) - temporaries(20) < 1980 * 100


def test_an_unknown_edge_is_refused():
    with pytest.raises(ValueError, match="'decoder' or a function, got 'none'"):
        bound.evaluate(KEY, flat(schedules.geometric(3)), jnp.zeros((2, 2)), edge="none")


def test_a_discretised_decoder_bounds_the_log_probability_of_quantised_data():
    """Data on 4 of 5 grey levels, in one dimension: the entropy is known, and the best chain nearly reaches it."""
    levels, width = np.arange(5.0), 0.5
    centres = (levels - 2) * width
    chosen, weights = np.asarray([0, 1, 2, 4]), np.asarray([0.1, 0.4, 0.2, 0.3])
    schedule = schedules.geometric(400, beta_1=(0.12 * width) ** 2, nsr_final=1e4)
    points = jnp.asarray(centres[chosen], jnp.float32)[:, None]
    best = optimal.finite_points(Gaussian(schedule), points, jnp.log(jnp.asarray(weights, jnp.float32)))

    def denoise(x_t, t):
        p = best.denoised(x_t, jnp.maximum(t, 2))
        return Normal(p.mean, p.variance)

    model = forward_edge(Model(best.process, denoise))
    x_0 = points[jax.random.choice(KEY, 4, (4000,), p=jnp.asarray(weights))]
    edge = functools.partial(Normal.bin_log_prob, width=width, lowest=centres[0], highest=centres[-1])
    result = bound.evaluate(jax.random.key(1), model, x_0, edge=edge)
    entropy = -(weights * np.log(weights)).sum()
    k = bound.mean_and_stderr(result.k)
    assert k.mean < -entropy + 4 * k.stderr
    assert k.mean > -entropy - 0.03 - 4 * k.stderr
    # The same as a loss.
    estimate = bound.estimate(jax.random.key(2), model, x_0, edge=edge)
    assert abs(estimate.mean - k.mean) < 5 * (estimate.stderr + k.stderr)

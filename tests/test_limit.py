"""K as the steps become infinitely many: against closed forms, against long chains, and trained on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dpm_jax import Bernoulli, Binomial, Gaussian, Model, Normal, bound, optimal, schedules, timesteps
from dpm_jax.errors import UserError
from dpm_jax.training import build, feed
from dpm_jax.training import config as config_lib
from dpm_jax.training import step as step_lib

KEY = jax.random.key(0)


@pytest.mark.parametrize("num_timesteps", [2, 10, 300])
def test_of_normal_data_it_is_the_log_likelihood(num_timesteps):
    """The chain of infinitely many steps loses nothing, wherever its times are looked for."""
    mean, covariance = np.array([0.3, -0.1]), np.array([[0.5, 0.2], [0.2, 0.3]])
    process = Gaussian(schedules.geometric(num_timesteps, beta_1=0.05, nsr_final=1e4))
    model = optimal.normal(process, jnp.asarray(mean, jnp.float32), jnp.asarray(covariance, jnp.float32))
    x_0 = np.random.default_rng(0).multivariate_normal(mean, covariance, 20_000)
    found = jax.jit(lambda key, x: bound.limit(key, model, x, edge="decoder", num_times=2))(KEY, jnp.asarray(x_0))
    lost = stats.multivariate_normal(mean, covariance).logpdf(x_0) - np.asarray(found.k)
    stderr = lost.std() / np.sqrt(len(lost))
    assert abs(lost.mean()) < 4 * stderr < 0.2
    assert abs(float(found.mean) - np.mean(found.k)) < 1e-5
    assert found.t.shape == found.kl.shape == (40_000,)
    assert found.t.min() >= 1
    assert found.t.max() <= num_timesteps


def two_points(num_timesteps):
    """The best model of x_0 = -1 or 1."""
    process = Gaussian(schedules.geometric(num_timesteps, beta_1=0.01))

    def denoise(x_t, t):
        p = process.marginal(jnp.ones_like(x_t), t)  # sqrt(alpha_bar) and sigma^2, at any t
        mean = jnp.tanh(p.mean * x_t / p.variance)
        return Normal(mean, 1 - mean**2 + 1e-6)

    return Model(process, denoise)


def test_chains_come_up_to_it():
    x_0 = jax.random.rademacher(KEY, (30_000, 1), jnp.float32)
    limit = jax.jit(lambda key: bound.limit(key, two_points(20), x_0, num_times=8))(KEY)
    ks = {}
    for num in (5, 20, 1000):
        few = x_0[: 3_000_000 // num]
        ks[num] = bound.mean_and_stderr(jax.jit(lambda key, n=num, x=few: bound.evaluate(key, two_points(n), x).k)(KEY))
    apart = {num: (float(limit.mean - k.mean), 4 * float(np.hypot(limit.stderr, k.stderr))) for num, k in ks.items()}
    assert apart[5][0] > 0.08 > apart[5][1]
    assert apart[5][0] > apart[20][0] > 0
    assert abs(apart[1000][0]) < apart[1000][1] < 0.03


def test_its_error_is_honest_and_its_times_are_spread():
    x_0 = jax.random.rademacher(KEY, (64, 1), jnp.float32)
    found = jax.jit(jax.vmap(lambda key: bound.limit(key, two_points(20), x_0)))(jax.random.split(KEY, 400))
    spread = float(jnp.std(found.mean))
    # The error takes examples for independent draws; here they are the same each time, and alike.
    assert 0.7 < float(jnp.sqrt(jnp.mean(found.stderr**2))) / spread < 1.4
    draw = timesteps.continuous(KEY, 100, 11)
    np.testing.assert_allclose(np.diff(np.sort(draw.t)), 0.1, atol=1e-4)
    np.testing.assert_allclose(jnp.mean(draw.weight * draw.t**2), (11**3 - 1) / 3, rtol=0.02)


def independent_bits(process, log_odds):
    """The exact model of independent bits."""

    def denoise(x_t, t):
        return Bernoulli(log_odds + process.marginal(jnp.ones_like(x_t), t).logits * (2 * x_t - 1))

    return Model(process, denoise)


@pytest.mark.parametrize(
    "schedule", [schedules.erase(2, beta_1=0.01), schedules.erase(50, beta_1=1e-5), schedules.cosine(1000)]
)
def test_of_independent_bits_it_is_the_log_likelihood(schedule):
    """Cosine's alpha_bar_T is next to 0, where the rate of loss is infinite and the KL is 0."""
    log_odds = jnp.array([2.0, -1.0, 0.0])
    model = independent_bits(Binomial(schedule), log_odds)
    law = Bernoulli(jnp.broadcast_to(log_odds, (160_000, 3)))
    x_0 = law.sample(KEY)
    found = jax.jit(lambda key, x: bound.limit(key, model, x, edge="decoder", num_times=2))(KEY, x_0)
    lost = np.asarray(law.log_prob(x_0) - found.k)
    stderr = lost.std() / np.sqrt(len(lost))
    assert np.isfinite(lost).all()
    assert abs(lost.mean()) < 4 * stderr < 0.2  # rare flips close to t = 1 cost tens of nats


def test_of_the_heartbeat_it_is_the_limit_that_its_chains_come_up_to():
    """A step of the best factorised chain is exact only as it becomes short."""
    points = jnp.asarray(np.eye(5)[:, np.arange(20) % 5], jnp.float32)
    x_0 = jnp.tile(points, (1000, 1))

    def model(num_timesteps):
        process = Binomial(schedules.erase(num_timesteps, beta_1=1e-5))
        return optimal.finite_bits(process, points, jnp.full(5, -jnp.log(5.0)))

    found = jax.jit(lambda key: bound.limit(key, model(30), x_0, edge="decoder", num_times=2))(KEY)
    lost = -np.log(5) - np.asarray(found.k)
    assert abs(lost.mean()) < 4 * lost.std() / np.sqrt(len(lost)) < 0.2
    chains = {num: bound.evaluate(KEY, model(num), x_0[: 30_000 // num], edge="decoder") for num in (30, 300)}
    gaps = {num: float(-np.log(5) - chain.k.mean()) for num, chain in chains.items()}
    assert gaps[30] > 5 * gaps[300] > 0


@pytest.mark.parametrize("num_timesteps", [1000, 2000])
def test_the_rate_of_bits_is_the_kl_of_a_short_step(num_timesteps):
    """Compare with every x_0, x_t and guess, at the middle of a step of a fine chain."""
    process = Binomial(schedules.linear(num_timesteps, beta_1=1e-3, beta_final=1e-3))
    x_0, x_t = (jnp.asarray(v, jnp.float32) for v in ([[0.0], [0.0], [1.0], [1.0]], [[0.0], [1.0], [0.0], [1.0]]))
    for t in (50, 400, num_timesteps):
        times = jnp.full(4, t, jnp.int32)
        for logit in (-6.0, -0.5, 0.0, 3.0):
            p = Bernoulli(jnp.full((4, 1), logit))
            step = process.posterior(x_0, x_t, times).kl(process.posterior(p, x_t, times))
            rate = process.kl_rate(x_0, p, x_t, times - 0.5)
            np.testing.assert_allclose(rate, step, rtol=0.03, atol=1e-7)


def test_a_process_without_a_rate_is_refused_and_so_are_real_times_where_steps_are_meant():
    class Own:
        num_timesteps = 10

    with pytest.raises(ValueError, match="the limit needs a process with `kl_rate`, and Own has none"):
        bound.limit(KEY, Model(Own(), lambda x, t: None), jnp.ones((4, 2)))
    model = two_points(10)
    with pytest.raises(ValueError, match="t: must be integers"):
        model.reverse(jnp.ones((2, 1)), jnp.array([1.5, 2.0]))


def test_training_on_it_learns_and_serves_any_number_of_steps():
    config = config_lib.default()
    config.update_from_flattened_dict(
        {
            "num_timesteps": 50,
            "data.swiss_roll.noise": 0.1,
            "schedule.geometric.beta_1": 1e-3,
            "network.time_mlp.features": (32,),
            "network.time_mlp.num_frequencies": 8,
            "optimizer.warmup_steps": 10,
            "train.objective": "limit",
            "train.batch_size": 256,
            "train.steps": 300,
        }
    )
    source = build.source(config)
    built = build.experiment(config, source.shape)
    run = step_lib.make_run_steps(built, feed.open_feed(source.supply, 0, 256, 0, 300).draw)
    state = step_lib.init(built)
    x_0 = source.held_out(KEY, 2000)
    evaluate = jax.jit(lambda params: bound.mean_and_stderr(bound.evaluate(KEY, built.model(params), x_0).k))
    before = evaluate(state.params)
    state, progress = run(state, 300)
    after = evaluate(step_lib.averaged_params(built, state))
    assert after.mean - before.mean > 0.2
    assert np.isfinite(progress.loss)
    config.train.emphasis = 0.5
    with pytest.raises(UserError, match=r"config\.train\.objective: 'limit' does not go with emphasis"):
        build.experiment(config, source.shape)
    config.train.emphasis, config.network.name = 0.0, "rbf"
    with pytest.raises(UserError, match=r"config\.train\.objective: 'limit' looks at real times, which network 'rbf'"):
        build.experiment(config, source.shape)


def test_a_few_times_of_a_long_chain_are_unbiased_and_all_of_them_change_nothing():
    x_0 = jax.random.rademacher(KEY, (2000, 1), jnp.float32)
    model = two_points(100)

    def evaluate(num_times):
        keys = jax.random.split(KEY, 20)
        return jax.jit(jax.vmap(lambda key: bound.evaluate(key, model, x_0, num_times=num_times)))(keys)

    every, few = evaluate(None), evaluate(7)
    np.testing.assert_array_equal(every.k, evaluate(99).k)
    for found in (every, few):
        np.testing.assert_allclose(found.kl_per_step.sum(1), found.kl.mean(1), rtol=1e-5)
        assert found.kl_per_step.shape == (20, 101)
    means = [np.asarray(found.k).mean(1) for found in (every, few)]
    stderr = np.hypot(*(mean.std(ddof=1) / np.sqrt(20) for mean in means))
    assert abs(means[0].mean() - means[1].mean()) < 4 * stderr < 0.03
    # Stretches of different lengths.
    np.testing.assert_allclose(evaluate(98).k.mean(), every.k.mean(), atol=0.03)


def test_every_time_of_a_stretch_is_as_likely():
    """T = 6 in two stretches, 2..3 and 4..6: x_0 and its guess are 0, so that a term depends on t alone."""
    schedule, s2 = schedules.geometric(6, beta_1=0.1), 0.5
    model = Model(Gaussian(schedule), lambda x, t: Normal(jnp.zeros_like(x), s2))
    found = jax.jit(lambda x_0: bound.evaluate(KEY, model, x_0, num_times=2).kl)(jnp.zeros((6000, 1)))
    alpha_bar = np.asarray(schedule.alpha_bar, np.float64)
    before, now = alpha_bar[1:-1], alpha_bar[2:]
    weight = np.sqrt(before) * (1 - now / before) / (1 - now)
    share = 1 / (1 + weight**2 * s2 * (1 - now) / (1 - before) / (1 - now / before))
    kl = 0.5 * (share - 1 - np.log(share))
    sums = (2 * kl[:2, None] + 3 * kl[None, 2:]).ravel()
    distance = np.abs(np.asarray(found)[:, None] - sums)
    np.testing.assert_allclose(distance.min(1), 0, atol=1e-5)
    counts = np.bincount(distance.argmin(1), minlength=6)
    assert (np.abs(counts - 1000) < 4 * np.sqrt(1000)).all()

"""Cold diffusion: both rules with a perfect restorer and with bad ones, in the common scan; the law of x_T."""

import dataclasses
import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from dpm_jax import Bernoulli, Binomial, Gaussian, Model, Normal, cold, degradations, sampling, schedules
from dpm_jax.distributions import level

KEY = jax.random.key(0)
SHAPE = (6, 8, 2)
DEGRADATIONS = {
    "blur": lambda T: degradations.blur(T, sigma_final=8.0),
    "pixelate": degradations.pixelate,
    "fade": degradations.fade,
    "mask": degradations.mask,
}


def images(num, shape=SHAPE, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((num, *shape)), jnp.float32)


def some_level(shape=SHAPE, seed=0):
    rng, channels = np.random.default_rng(seed), shape[-1]
    location, log_scale, log_noise = (jnp.asarray(rng.normal(size=channels), jnp.float32) for _ in range(3))
    mixing = jnp.asarray(rng.normal(size=(channels, channels)), jnp.float32)
    return level.Level(shape, location, log_scale, log_noise - 1, mixing)


def covariance_of(p):
    """Return the covariance of all pixels and channels, [N C, N C], and that of the channel means, in float64."""
    num_pixels = math.prod(p.event_shape[:-1])
    scale = np.sqrt(level.FLOOR**2 + np.exp(2 * np.asarray(p.log_scale, float)))
    noise = np.sqrt(level.FLOOR**2 + np.exp(2 * np.asarray(p.log_noise, float)))
    a = np.tril(np.asarray(p.mixing, float), -1) + np.diag(scale)
    centred = np.eye(num_pixels) - 1 / num_pixels
    return np.kron(np.ones((num_pixels, num_pixels)), a @ a.T) + np.kron(centred, np.diag(noise**2)), a @ a.T


# --- The reverse chain ---


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_a_perfect_restorer_brings_back_the_original(name):
    x_0 = images(5)

    @jax.jit
    def there_and_back(x_0):
        found = []
        for T, rule in ((1, "improved"), (10, "improved"), (10, "naive")):
            degrade = DEGRADATIONS[name](T)
            x_last = cold.keyed(degrade)(KEY, x_0, jnp.full(5, T))
            chain = cold.model(degrade, lambda x_t, t: x_0, T, rule=rule, key=KEY)
            found.append(sampling.sample(jax.random.key(1), chain, 5, SHAPE, start=x_last))
        return found

    for x in there_and_back(x_0):
        chex.assert_type(x, jnp.float32)
        np.testing.assert_allclose(x, x_0, atol=1e-5)


@pytest.mark.parametrize("rule", ["improved", "naive"])
def test_a_perfect_restorer_goes_through_every_state(rule):
    x_0, degrade, T = images(5), degradations.mask(10), 10

    @jax.jit
    def states():
        state = jax.vmap(lambda t: cold.keyed(degrade)(KEY, x_0, jnp.full(5, t)))(jnp.arange(T + 1))
        chain = cold.model(degrade, lambda x_t, t: x_0, T, rule=rule, key=KEY)
        return state, sampling.trajectory(KEY, chain, 5, SHAPE, keep_every=3, start=state[T])

    state, kept = states()
    assert list(np.asarray(kept.t)) == [10, 9, 6, 3, 0]
    np.testing.assert_allclose(kept.x, state[kept.t], atol=1e-5)


@functools.partial(jax.jit, static_argnames=("T", "rule"))
def with_a_bad_restorer(x_last, e, size, *, T, rule):
    degrade = lambda x, t: x + t[:, None, None, None] * e  # noqa: E731
    restore = lambda x_t, t: size * jnp.sin(3 * x_t) + t[:, None, None, None]  # noqa: E731
    return sampling.sample(KEY, cold.model(degrade, restore, T, rule=rule), 3, SHAPE, start=x_last)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([1, 2, 12]), st.integers(0, 1000), st.floats(-3, 3))
def test_the_improved_rule_undoes_a_linear_degradation_whatever_the_restorer(T, seed, size):
    """Section 3.3: with D(x, t) = x + t e, every x_{t-1} is x_t - e. The naive rule returns what R made up last."""
    x_last, e = images(3, seed=seed), images(1, seed=seed + 2000) / T
    improved, naive = (with_a_bad_restorer(x_last, e, size, T=T, rule=rule) for rule in ("improved", "naive"))
    np.testing.assert_allclose(improved, x_last - T * e, atol=2e-5 * T)
    assert float(jnp.abs(naive - (x_last - T * e)).max()) > 0.1
    assert float(jnp.abs(naive).max()) <= abs(size) + 1 + 1e-5  # of R, and of nothing else


def test_the_rules_are_their_formulas():
    x_t, t, degrade = images(4), jnp.array([1, 2, 5, 10]), degradations.blur(10, sigma_final=5.0)
    restore = lambda x_t, t: jnp.tanh(x_t) + 0.1 * t[:, None, None, None]  # noqa: E731
    x_0 = restore(x_t, t)
    for rule, expected in (
        ("naive", degrade(x_0, t - 1)),
        ("improved", x_t - degrade(x_0, t) + degrade(x_0, t - 1)),
    ):
        p = cold.model(degrade, restore, 10, rule=rule).reverse(x_t, t)
        np.testing.assert_allclose(p.mean, expected, atol=1e-6)
        np.testing.assert_array_equal(p.variance, 0)
    np.testing.assert_array_equal(
        cold.model(degrade, restore, 10).reverse(x_t, t).mean, p.mean
    )  # improved, if nothing is said


@pytest.mark.parametrize(
    ("name", "chunk_size", "start"), [("blur", 20, some_level()), ("mask", 7, images(50))], ids=["law", "states"]
)
def test_chunks_give_the_same_samples(name, chunk_size, start):
    """A law of x_T, the states themselves, and what a random degradation draws: none knows how the batch is cut."""
    chain = cold.model(DEGRADATIONS[name](3), lambda x_t, t: jnp.cos(x_t), 3, key=jax.random.key(5))

    @jax.jit
    def draws(key):
        whole, cut = (sampling.sample(key, chain, 50, SHAPE, start=start, chunk_size=k) for k in (None, chunk_size))
        return whole, cut, sampling.trajectory(key, chain, 50, SHAPE, start=start, keep_every=3).x

    whole, cut, kept = draws(KEY)
    np.testing.assert_allclose(cut, whole, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(kept[-1], whole, rtol=1e-5, atol=1e-5)
    assert len(np.unique(np.asarray(whole[:, 0, 0, 0]))) == 50
    if name == "mask":
        np.testing.assert_array_equal(kept[0], start)


def test_memory_does_not_grow_with_the_number_of_steps():
    def temporaries(T):
        chain = cold.model(degradations.blur(T, sigma_final=8.0), lambda x_t, t: jnp.tanh(x_t), T, some_level())
        draw = lambda key: sampling.sample(key, chain, 64, SHAPE)  # noqa: E731
        return jax.jit(draw).lower(KEY).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(2000) <= 1.1 * temporaries(20) + 5 * 4 * 2001


def test_one_trace():
    traces = []

    def restore(x_t, t):
        traces.append(None)
        return 0.5 * x_t

    @jax.jit
    def draw(key, p):
        return sampling.sample(key, cold.model(degradations.mask(20), restore, 20, p, key=key), 4, SHAPE)

    for seed in range(3):
        x = draw(jax.random.key(seed), some_level(seed=seed))
    chex.assert_tree_all_finite(x)
    assert draw._cache_size() == 1
    assert len(traces) == 1


# --- Where a chain begins ---


STILL = Model.from_steps(Gaussian(schedules.geometric(1)), lambda x, t: Normal.point(x))


def test_a_chain_begins_at_the_law_it_is_told():
    """A step that does nothing: x_T itself, the prior's noise placed by another law; with a batch of one, and none."""
    event_ndim = len(SHAPE)
    starts = [Normal(jnp.full((1, *SHAPE), 0.3), 0.04), Normal(jnp.full(SHAPE, 0.3), 0.04, event_ndim=event_ndim)]
    prior, *found = jax.jit(
        lambda: [sampling.sample(KEY, STILL, 40, SHAPE, start=start) for start in (None, *starts)]
    )()
    for x in found:
        np.testing.assert_allclose(x, 0.3 + 0.2 * prior, atol=1e-6)


def test_a_chain_of_bits_begins_at_the_law_it_is_told():
    model = Model.from_steps(Binomial(schedules.erase(1)), lambda x, t: Bernoulli.point(x))
    rates = np.array([0.1, 0.5, 0.8])
    start = Bernoulli(jnp.asarray(np.log(rates / (1 - rates)), jnp.float32)[None])
    x = jax.jit(lambda: sampling.sample(KEY, model, 4000, (3,), start=start, chunk_size=1000))()
    assert (np.abs(np.asarray(x.mean(0)) - rates) < 5 * np.sqrt(rates * (1 - rates) / 4000)).all()


def test_a_chain_that_begins_nowhere_is_refused():
    chain = cold.model(degradations.fade(5), lambda x_t, t: x_t, 5)
    with pytest.raises(ValueError, match="start: this cold chain has no law of x_T"):
        sampling.sample(KEY, chain, 2, SHAPE)


# --- Training ---


def test_restoration_loss_is_the_mean_error_at_uniform_times():
    """With 40 examples and T = 10, every t has four examples, so the mean over t is exact."""
    T, x_0 = 10, images(1).repeat(40, axis=0)
    restore = lambda x_t, t: x_t + 0.1 * t[:, None, None, None]  # noqa: E731
    error = np.stack([np.asarray(x_0[0] * (-t / T) + 0.1 * t) for t in range(1, T + 1)]).astype(float)
    for norm, expected in (("l1", np.abs(error).mean()), ("l2", (error**2).mean())):
        loss = cold.restoration_loss(KEY, degradations.fade(T), restore, x_0, T, norm=norm)
        chex.assert_shape(loss, ())
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
    default = cold.restoration_loss(KEY, degradations.fade(T), restore, x_0, T)
    np.testing.assert_allclose(default, np.abs(error).mean(), rtol=1e-5)


@pytest.mark.parametrize("name", DEGRADATIONS)
@pytest.mark.parametrize("T", [1, 1000])
def test_restoration_loss_trains(name, T):
    """A scale per channel, by gradient: the loss is differentiable, and t stays within 1..T."""

    @jax.jit
    def loss(scale, key):
        def restore(x_t, t):
            return jnp.where(((t >= 1) & (t <= T))[:, None, None, None], scale * x_t, jnp.nan)

        return cold.restoration_loss(key, DEGRADATIONS[name](T), restore, images(64), T)

    value, slope = jax.value_and_grad(loss)(jnp.ones(2), KEY)
    chex.assert_tree_all_finite((value, slope))
    assert 0.05 < float(value) < 2
    assert float(cold.restoration_loss(KEY, DEGRADATIONS[name](T), lambda x_t, t: images(64), images(64), T)) == 0


def test_a_random_degradation_draws_anew_with_every_key():
    restore = lambda x_t, t: x_t  # noqa: E731
    losses = {
        float(cold.restoration_loss(k, degradations.mask(9), restore, images(9), 9)) for k in jax.random.split(KEY, 5)
    }
    assert len(losses) == 5


def test_what_is_refused():
    fade, mask, restore = degradations.fade(5), degradations.mask(5), lambda x_t, t: x_t
    with pytest.raises(ValueError, match="norm: must be one of l1, l2, got 'huber'"):
        cold.restoration_loss(KEY, fade, restore, images(2), 5, norm="huber")
    with pytest.raises(ValueError, match="rule: must be one of improved, naive, got 'ddim'"):
        cold.model(fade, restore, 5, rule="ddim")
    with pytest.raises(ValueError, match="key: this degradation is random"):
        cold.model(mask, restore, 5)
    with pytest.raises(ValueError, match="key: this degradation is random"):
        cold.keyed(mask)(None, images(2), jnp.ones(2, jnp.int32))
    with pytest.raises(ValueError, match=r"degrade: must take \(x_0, t\) or \(key, x_0, t\), got a function of 1"):
        cold.model(lambda x: x, restore, 5)
    with pytest.raises(ValueError, match="degrade: must take"):
        cold.restoration_loss(KEY, lambda a, b, c, d: a, restore, images(2), 5)


# --- The law of x_T ---


@pytest.mark.parametrize("shape", [(3, 4, 1), (3, 4, 2), (2, 3, 3), (5, 2), (1, 1, 2)])
def test_level_log_prob_is_that_of_the_whole_covariance(shape):
    p, x = some_level(shape), images(6, shape)
    covariance, _ = covariance_of(p)
    law = scipy.stats.multivariate_normal(np.tile(np.asarray(p.location, float), math.prod(shape[:-1])), covariance)
    expected = law.logpdf(np.asarray(x, float).reshape(6, -1))
    np.testing.assert_allclose(p.log_prob(x), expected, rtol=2e-5, atol=1e-4)


def test_level_log_prob_of_nearly_constant_images():
    """Noise at its floor: 1e5 times below the level, which no dense float32 matrix would bear."""
    p = level.Level((16, 16, 1), jnp.array([0.5]), jnp.array([1.0]), jnp.array([-50.0]), jnp.zeros((1, 1)))
    rng = np.random.default_rng(0)
    x = np.float32(0.7 + level.FLOOR * rng.standard_normal((4, 16, 16, 1)))
    expected = scipy.stats.multivariate_normal(np.full(256, 0.5), covariance_of(p)[0])
    np.testing.assert_allclose(p.log_prob(jnp.asarray(x)), expected.logpdf(x.reshape(4, -1).astype(float)), rtol=1e-4)


def test_level_samples_its_own_law():
    """One for all, and one for each of a batch."""
    p, n = some_level((2, 2, 2)), 40_000
    batch = jax.tree.map(lambda values: jnp.broadcast_to(values, (n, *values.shape)), p)
    assert batch.batch_shape == (n,)
    assert p.batch_shape == ()
    assert p.sample(KEY).shape == p.event_shape == (2, 2, 2)
    x = np.asarray(batch.sample(KEY)).astype(float)
    covariance, _ = covariance_of(p)
    sd = np.sqrt(np.diagonal(covariance))
    assert (np.abs(x.reshape(n, 8).mean(0) - np.tile(p.location, 4)) < 5 * sd / np.sqrt(n)).all()
    off = np.abs(np.cov(x.reshape(n, 8).T) - covariance)
    assert (off < 5 * np.sqrt(2 / n) * sd[:, None] * sd).all()


def test_a_level_without_mixing_has_independent_channels():
    p, x = some_level(), images(3)
    alone, apart = (dataclasses.replace(p, mixing=m) for m in (jnp.zeros((2, 2)), jnp.triu(jnp.ones((2, 2)))))
    np.testing.assert_allclose(alone.log_prob(x), apart.log_prob(x), rtol=1e-6)
    shape, none = (*SHAPE[:-1], 1), jnp.zeros((1, 1))
    one = [level.Level(shape, *(v[c : c + 1] for v in (p.location, p.log_scale, p.log_noise)), none) for c in (0, 1)]
    total = sum(one[c].log_prob(x[..., c : c + 1]) for c in (0, 1))
    np.testing.assert_allclose(alone.log_prob(x), total, rtol=1e-5)


def test_constant_images_have_a_finite_likelihood_and_slope():
    p = level.Level(SHAPE, jnp.zeros(2), jnp.full(2, -100.0), jnp.full(2, -100.0), jnp.zeros((2, 2)))
    value, slope = jax.jit(jax.value_and_grad(cold.start_loss))(p, jnp.zeros((3, *SHAPE)))
    chex.assert_tree_all_finite((value, slope))
    size = math.prod(SHAPE)
    exact = scipy.stats.multivariate_normal(np.zeros(size), covariance_of(p)[0]).logpdf(np.zeros(size))
    np.testing.assert_allclose(value, -exact / size, rtol=1e-4)


def test_start_loss_is_least_at_the_law_of_the_data():
    """Gradient descent from `standard` finds the sample's moments, which are the maximum of the likelihood."""
    scales = (jnp.log(jnp.array([0.5, 0.2])), jnp.log(jnp.array([0.1, 0.3])))
    truth = level.Level((4, 4, 2), jnp.array([0.3, -0.5]), *scales, jnp.full((2, 2), 0.4))
    x = jax.tree.map(lambda values: jnp.broadcast_to(values, (500, *values.shape)), truth).sample(KEY)

    @jax.jit
    def fit(parameters):
        def step(carry, i):
            p, mean, square = carry
            slope = jax.grad(lambda p: cold.start_loss(level.Level((4, 4, 2), **p), x))(p)
            mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, slope)
            square = jax.tree.map(lambda s, g: 0.99 * s + 0.01 * g**2, square, slope)
            rate = 0.03 * (1 - i / 1000)
            p = jax.tree.map(lambda p, m, s: p - rate * m / (jnp.sqrt(s) + 1e-8), p, mean, square)
            return (p, mean, square), None

        zeros = jax.tree.map(jnp.zeros_like, parameters)
        return jax.lax.scan(step, (parameters, zeros, zeros), jnp.arange(1000))[0][0]

    p = level.Level((4, 4, 2), **fit(level.standard(2)))
    means = np.asarray(x.mean((1, 2)), float)
    _, covariance = covariance_of(p)
    np.testing.assert_allclose(p.location, means.mean(0), atol=2e-3)
    np.testing.assert_allclose(covariance, np.cov(means.T, ddof=0), rtol=0.02)
    rest = np.asarray(x - x.mean((1, 2), keepdims=True), float)
    residual = np.sqrt((rest**2).sum((0, 1, 2)) / (500 * 15))
    np.testing.assert_allclose(np.sqrt(level.FLOOR**2 + np.exp(2 * p.log_noise)), residual, rtol=0.01)
    assert float(cold.start_loss(p, x)) <= float(cold.start_loss(truth, x))


def test_start_loss_is_of_any_law():
    p, x = Normal(jnp.zeros((1, *SHAPE)), 1.0), images(4)
    expected = 0.5 * np.mean(np.asarray(x, float) ** 2) + 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(cold.start_loss(p, x), expected, rtol=1e-5)

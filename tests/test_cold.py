"""Cold diffusion: both rules with a perfect restorer and with bad ones, in the common scan; the law of x_T."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from dpm_jax import binomial, cold, degradations, gaussian, level, normal, sampling

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


def some_level(channels=2, seed=0):
    rng = np.random.default_rng(seed)
    mean, log_scale, log_noise = (jnp.asarray(rng.normal(size=channels), jnp.float32) for _ in range(3))
    return level.Level(mean, log_scale, log_noise - 1, jnp.asarray(rng.normal(size=(channels, channels)), jnp.float32))


def covariance_of(p, num_pixels):
    """Of all pixels and channels, pixel by pixel, [N C, N C], and of the channel means; by definition, float64."""
    scale = np.sqrt(level.FLOOR**2 + np.exp(2 * np.asarray(p.log_scale, float)))
    noise = np.sqrt(level.FLOOR**2 + np.exp(2 * np.asarray(p.log_noise, float)))
    mixing = np.broadcast_to(np.asarray(p.mixing, float), 2 * scale.shape)
    a = np.tril(mixing, -1) + np.diag(scale)
    centred = np.eye(num_pixels) - 1 / num_pixels
    return np.kron(np.ones((num_pixels, num_pixels)), a @ a.T) + np.kron(centred, np.diag(noise**2)), a @ a.T


# --- The reverse chain ---


@pytest.mark.parametrize("name", DEGRADATIONS)
@pytest.mark.parametrize("rule", ["improved", "naive"])
@pytest.mark.parametrize("T", [1, 10])
def test_a_perfect_restorer_brings_back_the_original(name, rule, T):
    x_0, degrade = images(5), DEGRADATIONS[name](T)

    @jax.jit
    def there_and_back(x_0):
        x_last = cold.keyed(degrade)(KEY, x_0, jnp.full(5, T))
        reverse = cold.reverse(degrade, lambda x_t, t: x_0, rule=rule, key=KEY)
        return sampling.ancestral(jax.random.key(1), gaussian, reverse, 5, SHAPE, T, start=x_last)

    x = there_and_back(x_0)
    chex.assert_type(x, jnp.float32)
    np.testing.assert_allclose(x, x_0, atol=1e-5)


@pytest.mark.parametrize("rule", ["improved", "naive"])
def test_a_perfect_restorer_goes_through_every_state(rule):
    x_0, degrade, T = images(5), degradations.mask(10), 10
    state = lambda t: cold.keyed(degrade)(KEY, x_0, jnp.full(5, t))  # noqa: E731
    reverse = cold.reverse(degrade, lambda x_t, t: x_0, rule=rule, key=KEY)
    kept = sampling.ancestral_trajectory(KEY, gaussian, reverse, 5, SHAPE, T, keep_every=3, start=state(T))
    assert list(np.asarray(kept.t)) == [10, 9, 6, 3, 0]
    for t, x in zip(kept.t, kept.x, strict=True):
        np.testing.assert_allclose(x, state(t), atol=1e-5)


@functools.partial(jax.jit, static_argnames=("T", "rule"))
def with_a_bad_restorer(x_last, e, size, *, T, rule):
    degrade = lambda x, t: x + t[:, None, None, None] * e  # noqa: E731
    restore = lambda x_t, t: size * jnp.sin(3 * x_t) + t[:, None, None, None]  # noqa: E731
    reverse = cold.reverse(degrade, restore, rule=rule)
    return sampling.ancestral(KEY, gaussian, reverse, 3, SHAPE, T, start=x_last)


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
        p = cold.reverse(degrade, restore, rule=rule)(x_t, t)
        np.testing.assert_allclose(p.mean, expected, atol=1e-6)
        np.testing.assert_array_equal(p.variance, 0)
    np.testing.assert_array_equal(cold.reverse(degrade, restore)(x_t, t).mean, p.mean)  # improved, if nothing is said


@pytest.mark.parametrize(("name", "chunk_size"), [("blur", 20), ("mask", 7)])
def test_chunks_give_the_same_samples(name, chunk_size):
    """A law of x_T, the states themselves, and what a random degradation draws: none knows how the batch is cut."""
    reverse = cold.reverse(DEGRADATIONS[name](4), lambda x_t, t: jnp.cos(x_t), key=jax.random.key(5))

    @jax.jit
    def draws(key, start):
        arguments = (key, gaussian, reverse, 50, SHAPE, 4)
        whole, cut = (sampling.ancestral(*arguments, start=start, chunk_size=size) for size in (None, chunk_size))
        return whole, cut, sampling.ancestral_trajectory(*arguments, start=start).x

    for start in (some_level(), images(50)):
        whole, cut, kept = draws(KEY, start)
        np.testing.assert_allclose(cut, whole, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(kept[-1], whole, rtol=1e-5, atol=1e-5)
        assert len(np.unique(np.asarray(whole[:, 0, 0, 0]))) == 50
    np.testing.assert_array_equal(kept[0], images(50))


def test_memory_does_not_grow_with_the_number_of_steps():
    def temporaries(T):
        reverse = cold.reverse(degradations.blur(T, sigma_final=8.0), lambda x_t, t: jnp.tanh(x_t))
        draw = lambda key: sampling.ancestral(key, gaussian, reverse, 64, SHAPE, T, start=some_level())  # noqa: E731
        return jax.jit(draw).lower(KEY).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(2000) <= 1.1 * temporaries(20) + 5 * 4 * 2001


def test_one_trace():
    traces = []

    def restore(x_t, t):
        traces.append(None)
        return 0.5 * x_t

    @jax.jit
    def draw(key, p):
        reverse = cold.reverse(degradations.mask(1000), restore, key=key)
        return sampling.ancestral(key, gaussian, reverse, 4, SHAPE, 1000, start=p)

    for seed in range(3):
        x = draw(jax.random.key(seed), some_level(seed=seed))
    chex.assert_tree_all_finite(x)
    assert draw._cache_size() == 1
    assert len(traces) == 1


# --- Where a chain begins ---


@pytest.mark.parametrize(
    "start",
    [
        gaussian.Normal(jnp.full((1, *SHAPE), 0.3), jnp.full((1, *SHAPE), 0.04)),
        gaussian.Normal(jnp.array(0.3), jnp.array(0.04)),
    ],
)
def test_a_chain_begins_at_the_law_it_is_told(start):
    """A step that does nothing: x_T itself, the prior's noise placed by another law."""
    prior = sampling.ancestral(KEY, gaussian, lambda x, t: normal.point(x), 40, SHAPE, 1)
    x = sampling.ancestral(KEY, gaussian, lambda x, t: normal.point(x), 40, SHAPE, 1, start=start)
    np.testing.assert_allclose(x, 0.3 + 0.2 * prior, atol=1e-6)


def test_a_chain_of_bits_begins_at_the_law_it_is_told():
    reverse = lambda x, t: binomial.point(x)  # noqa: E731
    rates = np.array([0.1, 0.5, 0.8])
    start = binomial.Bernoulli(jnp.asarray(np.log(rates / (1 - rates)), jnp.float32)[None])
    x = sampling.ancestral(KEY, binomial, reverse, 4000, (3,), 1, start=start, chunk_size=1000)
    assert (np.abs(np.asarray(x.mean(0)) - rates) < 5 * np.sqrt(rates * (1 - rates) / 4000)).all()


def test_states_to_begin_at_have_the_shape_of_the_samples():
    for draw in (sampling.ancestral, sampling.ancestral_trajectory):
        with pytest.raises(ValueError, match=r"start: must have shape \(3, 2\), or be a law, got shape \(4, 2\)"):
            draw(KEY, gaussian, lambda x, t: normal.point(x), 3, (2,), 5, start=jnp.zeros((4, 2)))


# --- Training ---


def test_restoration_loss_is_the_mean_error_at_uniform_times():
    """Of 40 examples and T = 10, every t has four: so the mean over t is exact."""
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
        cold.reverse(fade, restore, rule="ddim")
    with pytest.raises(ValueError, match="key: this degradation is random"):
        cold.reverse(mask, restore)
    with pytest.raises(ValueError, match="key: this degradation is random"):
        cold.keyed(mask)(None, images(2), jnp.ones(2, jnp.int32))
    with pytest.raises(ValueError, match=r"degrade: must take \(x_0, t\) or \(key, x_0, t\), got a function of 1"):
        cold.reverse(lambda x: x, restore)
    with pytest.raises(ValueError, match="degrade: must take"):
        cold.restoration_loss(KEY, lambda a, b, c, d: a, restore, images(2), 5)


# --- The law of x_T ---


@pytest.mark.parametrize("shape", [(3, 4, 1), (3, 4, 2), (2, 3, 3), (5, 2), (1, 1, 2)])
def test_level_log_prob_is_that_of_the_whole_covariance(shape):
    p, num_pixels = some_level(shape[-1]), int(np.prod(shape[:-1]))
    x = images(6, shape)
    covariance, _ = covariance_of(p, num_pixels)
    law = scipy.stats.multivariate_normal(np.tile(np.asarray(p.mean, float), num_pixels), covariance)
    expected = law.logpdf(np.asarray(x, float).reshape(6, -1))
    np.testing.assert_allclose(level.log_prob(p, x), expected, rtol=2e-5, atol=1e-4)


def test_level_log_prob_of_nearly_constant_images():
    """Noise at its floor: 1e5 times below the level, which no dense float32 matrix would bear."""
    p = level.Level(jnp.array([0.5]), jnp.array([1.0]), jnp.array([-50.0]))
    rng = np.random.default_rng(0)
    x = np.float32(0.7 + level.FLOOR * rng.standard_normal((4, 16, 16, 1)))
    covariance, _ = covariance_of(p, 256)
    expected = scipy.stats.multivariate_normal(np.full(256, 0.5), covariance).logpdf(x.reshape(4, -1).astype(float))
    np.testing.assert_allclose(level.log_prob(p, jnp.asarray(x)), expected, rtol=1e-4)


def test_level_places_its_own_law():
    p, n = some_level(), 40_000
    x = np.asarray(level.place(p, level.noise(KEY, (n, 2, 2, 2)))).astype(float)
    covariance, _ = covariance_of(p, 4)
    sd = np.sqrt(np.diagonal(covariance))
    assert (np.abs(x.reshape(n, 8).mean(0) - np.tile(p.mean, 4)) < 5 * sd / np.sqrt(n)).all()
    off = np.abs(np.cov(x.reshape(n, 8).T) - covariance)
    assert (off < 5 * np.sqrt(2 / n) * sd[:, None] * sd).all()


def test_a_level_without_mixing_has_independent_channels():
    p = some_level()
    alone, apart = p._replace(mixing=0.0), p._replace(mixing=jnp.triu(jnp.ones((2, 2))))
    x = images(3)
    np.testing.assert_allclose(level.log_prob(alone, x), level.log_prob(apart, x), rtol=1e-6)
    one = [level.Level(p.mean[c : c + 1], p.log_scale[c : c + 1], p.log_noise[c : c + 1]) for c in (0, 1)]
    total = sum(level.log_prob(one[c], x[..., c : c + 1]) for c in (0, 1))
    np.testing.assert_allclose(level.log_prob(alone, x), total, rtol=1e-5)


def test_constant_images_have_a_finite_likelihood_and_slope():
    p = level.Level(jnp.zeros(2), jnp.full(2, -100.0), jnp.full(2, -100.0), jnp.zeros((2, 2)))
    value, slope = jax.value_and_grad(cold.start_loss)(p, jnp.zeros((3, *SHAPE)))
    chex.assert_tree_all_finite((value, slope))
    np.testing.assert_allclose(value, np.log(level.FLOOR) + 0.5 * np.log(2 * np.pi), atol=0.5)


def test_start_loss_is_least_at_the_law_of_the_data():
    """Gradient descent from `standard` finds the sample's moments, which are the maximum of the likelihood."""
    truth = level.Level(jnp.array([0.3, -0.5]), jnp.log(jnp.array([0.5, 0.2])), jnp.log(jnp.array([0.1, 0.3])), 0.4)
    x = level.place(truth, level.noise(KEY, (500, 4, 4, 2)))

    @jax.jit
    def fit(p):
        def step(carry, i):
            p, mean, square = carry
            slope = jax.grad(cold.start_loss)(p, x)
            mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, slope)
            square = jax.tree.map(lambda s, g: 0.99 * s + 0.01 * g**2, square, slope)
            rate = 0.03 * (1 - i / 1000)
            p = jax.tree.map(lambda p, m, s: p - rate * m / (jnp.sqrt(s) + 1e-8), p, mean, square)
            return (p, mean, square), None

        zeros = jax.tree.map(jnp.zeros_like, p)
        return jax.lax.scan(step, (p, zeros, zeros), jnp.arange(1000))[0][0]

    p = fit(level.standard(2))
    means = np.asarray(x.mean((1, 2)), float)
    _, covariance = covariance_of(p, 16)
    np.testing.assert_allclose(p.mean, means.mean(0), atol=2e-3)
    np.testing.assert_allclose(covariance, np.cov(means.T, ddof=0), rtol=0.02)
    rest = np.asarray(x - x.mean((1, 2), keepdims=True), float)
    residual = np.sqrt((rest**2).sum((0, 1, 2)) / (500 * 15))
    np.testing.assert_allclose(np.sqrt(level.FLOOR**2 + np.exp(2 * p.log_noise)), residual, rtol=0.01)
    assert float(cold.start_loss(p, x)) <= float(cold.start_loss(truth, x))


def test_start_loss_is_of_any_law():
    p, x = gaussian.Normal(jnp.zeros((1, *SHAPE)), jnp.ones((1, *SHAPE))), images(4)
    expected = 0.5 * np.mean(np.asarray(x, float) ** 2) + 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(cold.start_loss(p, x), expected, rtol=1e-5)

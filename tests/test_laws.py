"""Evidence: products with it where something is known, certain or unseen; tilts by functions; seen through noise.

Normal laws against conditioning in float64, bits against enumeration of all strings of five.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, log_expit

from dpm_jax import Bernoulli, Binomial, FullNormal, Gaussian, Normal, schedules
from tests.chains import STRINGS

KEY = jax.random.key(0)
INF, NAN = np.inf, np.nan


def conditioned(mean, covariance, y, variance):
    """N(mean, covariance) given y = x + noise where the noise is finite, and log N(y); float64."""
    mean, covariance, y, variance = (np.asarray(a, np.float64) for a in (mean, covariance, y, variance))
    seen = np.isfinite(variance)
    if not seen.any():
        return mean, covariance, 0.0
    total = covariance[np.ix_(seen, seen)] + np.diag(variance[seen])
    gain = np.linalg.solve(total, covariance[seen]).T
    log_z = scipy.stats.multivariate_normal(mean[seen], total).logpdf(y[seen])
    return mean + gain @ (y[seen] - mean[seen]), covariance - gain @ covariance[seen], log_z


def covariance_of(p):
    return np.asarray(p.scale_tril, float) @ np.asarray(p.scale_tril, float).mT


def full_law(batch, dim, seed=0):
    rng = np.random.default_rng(seed)
    tril = np.tril(rng.standard_normal((batch, dim, dim)) + np.eye(dim))
    diagonal = np.arange(dim)
    tril[:, diagonal, diagonal] = np.abs(tril[:, diagonal, diagonal]) + 0.3
    return FullNormal(jnp.asarray(rng.standard_normal((batch, dim)), jnp.float32), jnp.asarray(tril, jnp.float32))


def every_kind(dim):
    """Evidence of every combination of known, seen through two noises, and unseen (of which the mean is NaN)."""
    variance = np.array(list(itertools.product((0.0, 0.3, 4.0, INF), repeat=dim)))
    mean = np.random.default_rng(1).standard_normal(variance.shape)
    return Normal(np.where(np.isinf(variance), NAN, mean), variance)


def probabilities(logits):
    """The law of whole strings, [B, 32], from independent bits, float64."""
    logits = np.asarray(logits, np.float64)[:, None]
    return expit(np.where(STRINGS[None] == 1, logits, -logits)).prod(-1)


# --- Products: normal ---

observe = jax.jit(lambda p, r: p.product(r))


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_product_of_full_laws_is_conditioning(dim):
    r = every_kind(dim)
    p = full_law(len(r.mean), dim)
    product, log_z = observe(p, r)
    assert isinstance(product, FullNormal)
    assert product.mean.shape == (len(r.mean), dim)
    assert product.scale_tril.shape == (len(r.mean), dim, dim)
    assert log_z.shape == (len(r.mean),)
    assert {a.dtype for a in jax.tree.leaves((product, log_z))} == {jnp.dtype("float32")}
    after = covariance_of(product)
    for i, before in enumerate(covariance_of(p)):
        mean, covariance, expected = conditioned(p.mean[i], before, r.mean[i], r.variance[i])
        np.testing.assert_allclose(product.mean[i], mean, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(after[i], covariance, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(log_z[i], expected, rtol=1e-3, atol=1e-3)


def independent_law(batch, dim):
    rng = np.random.default_rng(2)
    mean, variance = rng.standard_normal((batch, dim)), rng.uniform(0.1, 2, (batch, dim))
    return Normal(jnp.asarray(mean, jnp.float32), jnp.asarray(variance, jnp.float32))


def test_product_of_independent_laws_is_that_of_full_ones():
    p, r = independent_law(64, 3), every_kind(3)
    (product, log_z), (full, full_log_z) = observe(p, r), observe(FullNormal.of(p), r)
    assert product.mean.dtype == product.variance.dtype == jnp.float32
    np.testing.assert_allclose(product.mean, full.mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(product.variance[..., None] * jnp.eye(3), covariance_of(full), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(log_z, full_log_z, rtol=1e-5)
    for i in range(64):
        mean, covariance, expected = conditioned(p.mean[i], np.diag(p.variance[i]), r.mean[i], r.variance[i])
        np.testing.assert_allclose(product.mean[i], mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(product.variance[i], np.diag(covariance), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(log_z[i], expected, rtol=1e-5, atol=1e-5)
    unseen = np.isinf(r.variance)
    np.testing.assert_array_equal(product.mean[unseen], p.mean[unseen])
    np.testing.assert_array_equal(product.variance[unseen], p.variance[unseen])


@pytest.mark.parametrize("full", [False, True])
def test_what_is_known_is_exact(full):
    """Not to rounding: its square root would be noise of 1e-4 on a known coordinate."""
    r = every_kind(3)
    p = full_law(64, 3) if full else independent_law(64, 3)
    product, _ = observe(p, r)
    known = np.asarray(r.variance == 0)
    assert known.sum() == 48
    np.testing.assert_array_equal(product.mean[known], r.mean[known])
    np.testing.assert_array_equal((product.scale_tril if full else product.variance)[known], 0)


@given(
    st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5), st.floats(-8, 4)), min_size=3, max_size=3),
    st.lists(st.one_of(st.just(0.0), st.just(INF), st.floats(1e-4, 1e4)), min_size=3, max_size=3),
)
@settings(deadline=None, max_examples=50)
def test_product_is_bayes_rule_for_all_scales(values, variances):
    m, y, log_v = np.array(values, np.float32).T
    p = Normal(jnp.asarray(m)[None], jnp.exp(jnp.asarray(log_v))[None])
    r = Normal(jnp.asarray(y)[None], jnp.asarray(variances, jnp.float32)[None])
    v, w = np.asarray(p.variance[0], float), np.asarray(r.variance[0], float)
    with np.errstate(divide="ignore"):
        after = 1 / (1 / v + 1 / w)
    product, log_z = observe(p, r)
    np.testing.assert_allclose(product.variance[0], after, rtol=1e-5)
    share = np.where(np.isinf(w), 0, v / (v + np.where(np.isinf(w), 1, w)))
    np.testing.assert_allclose(product.mean[0], m + share * (y.astype(float) - m), rtol=1e-5, atol=1e-5)
    seen = np.isfinite(w)
    expected = scipy.stats.norm.logpdf(y[seen].astype(float), m[seen], np.sqrt(v + w)[seen]).sum()
    np.testing.assert_allclose(log_z[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("certain", [0, 1, 2])
def test_singular_laws_can_be_observed(certain):
    """One coordinate is certain beforehand: the others are conditioned, it stays where it is."""
    p = full_law(64, 3)
    p = FullNormal(p.mean, p.scale_tril.at[:, certain].set(0))
    r = every_kind(3)
    # What is certain may be seen through noise, or not at all; seen exactly, it has no density.
    use = np.asarray(r.variance[:, certain] > 0)
    product, log_z = observe(p, r)
    after = covariance_of(product)
    assert use.sum() == 48
    for i in np.flatnonzero(use):
        mean, covariance, expected = conditioned(p.mean[i], covariance_of(p)[i], r.mean[i], r.variance[i])
        np.testing.assert_allclose(product.mean[i], mean, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(after[i], covariance, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(log_z[i], expected, rtol=1e-3, atol=1e-3)
        assert product.mean[i, certain] == p.mean[i, certain]
    assert all(bool(jnp.isfinite(a).all()) for a in jax.tree.leaves((product, log_z)))


@pytest.mark.parametrize("full", [False, True])
def test_gradients_pass_through_the_wheres(full):
    """Compare every gradient with finite differences in float64."""
    rng = np.random.default_rng(3)
    r = every_kind(3)
    p = full_law(64, 3) if full else independent_law(64, 3)
    weights = rng.standard_normal(3)

    def ours(p, y, variance):
        product, log_z = p.product(Normal(y, variance))
        return (weights * (product.mean + product.variance)).sum() + log_z.sum()

    def exact(mean, scale, y, variance):
        mean, covariance, log_z = conditioned(mean, scale @ scale.T if full else np.diag(scale), y, variance)
        return (weights * (mean + np.diag(covariance))).sum() + log_z

    gradient = jax.jit(jax.grad(ours, (0, 1, 2)))(p, r.mean, r.variance)
    spread, of_spread = (law.scale_tril if full else law.variance for law in (p, gradient[0]))
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))
    np.testing.assert_array_equal(np.where(np.isinf(r.variance), gradient[1], 0), 0)
    for i in range(0, 64, 3):
        arguments = [np.asarray(a[i], float) for a in (p.mean, spread, r.mean, r.variance)]
        which = [(0, gradient[0].origin), (1, of_spread), (2, gradient[1])]
        for argument, ours_at in which:
            numeric = np.zeros_like(arguments[argument])
            lower = full and argument == 1
            for index in np.ndindex(numeric.shape):
                if (lower and index[1] > index[0]) or (argument == 2 and np.isinf(arguments[3][index])):
                    continue
                values = []
                for h in (1e-5, -1e-5):
                    moved = [a.copy() for a in arguments]
                    moved[argument][index] += h
                    values.append(exact(*moved))
                numeric[index] = (values[0] - values[1]) / 2e-5
            close = np.tril(ours_at[i]) if lower else ours_at[i]
            np.testing.assert_allclose(close, numeric, rtol=1e-2, atol=2e-2)


def test_evidence_of_one_example_is_that_of_all():
    r = Normal(jnp.array([[0.3, -1.0]]), jnp.array([[0.5, 0.0]]))
    repeated = jax.tree.map(lambda a: jnp.repeat(a, 4, 0), r)
    for p in (full_law(4, 2), Normal(jnp.ones((4, 2)), jnp.full((4, 2), 0.3))):
        for a, b in zip(*(jax.tree.leaves(observe(p, which)) for which in (r, repeated)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)


def test_overlap_with_a_point_is_the_likelihood():
    x = jax.random.normal(KEY, (5, 2, 3))
    r = Normal(jnp.ones_like(x), jnp.full_like(x, 0.7))
    expected = scipy.stats.norm.logpdf(np.asarray(x, float), 1, np.sqrt(0.7)).sum((1, 2))
    point = Normal.point(x)
    np.testing.assert_allclose(point.product(r)[1], expected, rtol=1e-5)
    np.testing.assert_array_equal(point.mean, x)
    np.testing.assert_array_equal(point.sample(KEY), x)


# --- Products: bits ---


def bit_evidence():
    """Every pair of a law's logit and an evidence's, five bits a row."""
    logits = (-INF, -9.0, -1.2, 0.0, 0.7, 30.0, INF)
    pairs = np.array([*itertools.product(logits, logits), (0.0, 0.0)], np.float32)
    return Bernoulli(jnp.asarray(pairs[:, 0].reshape(-1, 5))), Bernoulli(jnp.asarray(pairs[:, 1].reshape(-1, 5)))


def test_product_of_bits_is_enumeration():
    p, r = bit_evidence()
    product, log_z = observe(p, r)
    assert product.logits.dtype == log_z.dtype == jnp.float32
    assert log_z.shape == (10,)
    # r is the probability of what was observed, and 1 where nothing was.
    log_odds = np.where(STRINGS == 1, 1, -1)[None] * np.asarray(r.logits, float)[:, None]
    weight = np.where(log_odds == 0, 1.0, expit(log_odds)).prod(-1)
    joint = probabilities(p.logits) * weight
    z = joint.sum(1)
    possible = z > 0
    assert 0 < possible.sum() < 10
    np.testing.assert_allclose(log_z[possible], np.log(z[possible]), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(log_z[~possible], -INF)
    after = probabilities(product.logits)
    np.testing.assert_allclose(after[possible], joint[possible] / z[possible, None], rtol=1e-4, atol=1e-7)
    # Where r is certain, p is not asked.
    known = np.isinf(r.logits)
    np.testing.assert_array_equal(product.logits[known], r.logits[known])
    assert not bool(jnp.isnan(product.logits).any())


LOGITS = st.one_of(st.just(0.0), st.floats(1e-3, 40), st.floats(-40, -1e-3))


@given(st.lists(st.tuples(LOGITS, LOGITS), min_size=5, max_size=5))
@settings(deadline=None, max_examples=50)
def test_product_of_bits_adds_log_odds(values):
    a, b = np.array(values, np.float32).T
    p, r = Bernoulli(jnp.asarray(a)[None]), Bernoulli(jnp.asarray(b)[None])
    product, log_z = observe(p, r)
    np.testing.assert_allclose(product.logits[0], a + b, rtol=1e-6, atol=1e-6)
    a, b = a.astype(float), b.astype(float)
    both = np.logaddexp(log_expit(a) + log_expit(b), log_expit(-a) + log_expit(-b))
    np.testing.assert_allclose(log_z[0], np.where(b == 0, 0, both).sum(), rtol=1e-4, atol=1e-5)


def test_gradients_of_products_of_bits_are_finite():
    logits = jnp.asarray([[-30.0, -1.0, 0.0, 2.0, 30.0]])

    def value(logits, r):
        product, log_z = Bernoulli(logits).product(Bernoulli(r))
        return jnp.where(jnp.isinf(r), 0.0, product.logits).sum() + log_z.sum()

    gradient_of = jax.jit(jax.grad(value))
    for r in (-INF, -2.0, 0.0, 1.0, INF):
        gradient = gradient_of(logits, jnp.full((1, 5), r))
        x = np.asarray(logits, float)
        likelihood = np.exp(np.logaddexp(log_expit(x) + log_expit(r), log_expit(-x) + log_expit(-r)))
        rise = 0.0 if r == 0 else (expit(r) - expit(-r)) * expit(x) * expit(-x) / likelihood
        np.testing.assert_allclose(gradient, rise + (not np.isinf(r)), rtol=1e-4, atol=1e-6)


def test_overlap_with_a_certain_string_is_its_likelihood():
    r = Bernoulli(jnp.asarray([[-2.0, 0.5, 0.0, 3.0, INF]]))
    x = jnp.asarray(STRINGS, jnp.float32)
    likelihood = np.where(STRINGS == 1, expit(np.asarray(r.logits)), expit(-np.asarray(r.logits)))
    likelihood[:, 2] = 1
    with np.errstate(divide="ignore"):
        expected = np.log(likelihood.prod(1))
    point = Bernoulli.point(x)
    np.testing.assert_allclose(point.product(r)[1], expected, rtol=1e-5)
    np.testing.assert_array_equal(point.mean, x)
    np.testing.assert_array_equal(point.sample(KEY), x)


# --- Tilts by functions ---


@pytest.mark.parametrize("shape", [(3,), (2, 2, 1)])
def test_slope_of_normals_is_the_gradient_at_the_mean(shape):
    p = Normal(jax.random.normal(KEY, (4, *shape)), jnp.full((4, *shape), 0.5))
    axes = tuple(range(1, len(shape) + 1))
    tilted = jax.jit(lambda p: p.tilt(lambda x: -(x**4).sum(axes) + jnp.cos(x.sum(axes))))
    mean = np.asarray(p.mean, float)
    moved = mean + 0.5 * (-4 * mean**3 - np.sin(mean.sum(axes, keepdims=True)))
    np.testing.assert_allclose(tilted(p).mean, moved, rtol=1e-4, atol=1e-5)
    if len(shape) == 1:
        np.testing.assert_allclose(tilted(FullNormal.of(p)).mean, moved, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(5,), (2, 2, 1)])
def test_slope_of_bits_is_the_ratio_at_one_and_zero(shape):
    """A bit at a time, all others at their rates; by loops."""
    p = Bernoulli(jax.random.normal(KEY, (3, *shape)))
    rates = np.asarray(jax.nn.sigmoid(p.logits), float).reshape(3, -1)
    size = rates.shape[1]
    matrix = np.random.default_rng(0).standard_normal((size, size))

    def log_r(x):
        flat = x.reshape(x.shape[0], -1)
        return jnp.einsum("bi,ij,bj->b", flat, jnp.asarray(matrix, jnp.float32), flat)

    tilted = jax.jit(lambda p: p.tilt(log_r))(p)
    assert tilted.logits.shape == p.logits.shape
    assert tilted.logits.dtype == jnp.float32
    slope = tilted.logits - p.logits
    for b, bit in np.ndindex(rates.shape):
        values = []
        for value in (1.0, 0.0):
            x = rates[b].copy()
            x[bit] = value
            values.append(x @ matrix @ x)
        np.testing.assert_allclose(slope.reshape(3, -1)[b, bit], values[0] - values[1], rtol=1e-4, atol=1e-5)


# --- Evidence seen through the noise of x_t ---


def test_diffused_evidence_is_the_integral():
    """log of the integral of N(y; x_0, s^2) N(x_t; sqrt(alpha_bar) x_0, sigma2) over x_0, up to a constant, by sums."""
    schedule = schedules.geometric(30, beta_1=1e-2, nsr_final=50.0)
    y, grid = 0.7, np.linspace(-60, 60, 20_001)
    diffused = jax.jit(Gaussian(schedule).diffuse)
    for t in (1, 8, 15, 22, 30):
        alpha, s2 = (np.float64(a[t]) for a in (schedule.alpha_bar, schedule.sigma2))
        for variance in (0.01, 0.5, 3.0):
            r = Normal(jnp.array([[y]]), jnp.array([[variance]]))
            seen = diffused(r, jnp.array([t]))
            x_t = np.linspace(-2, 2, 5)
            exponent = -0.5 * (grid - y) ** 2 / variance - 0.5 * (x_t[:, None] - np.sqrt(alpha) * grid) ** 2 / s2
            exact = np.log(np.exp(exponent).sum(1))
            ours = scipy.stats.norm.logpdf(x_t, float(seen.mean[0, 0]), np.sqrt(float(seen.variance[0, 0])))
            np.testing.assert_allclose(ours - ours[0], exact - exact[0], rtol=1e-3, atol=1e-3)


def test_diffused_evidence_at_the_edges():
    schedule = schedules.geometric(30)
    r = Normal(jnp.array([[0.5, 2.0, NAN]] * 3), jnp.array([[0.0, 0.3, INF]] * 3))
    t = jnp.array([0, 15, 30])
    seen = Gaussian(schedule).diffuse(r, t)
    for i, time in enumerate(t):
        alpha, s2 = (np.float64(a[int(time)]) for a in (schedule.alpha_bar, schedule.sigma2))
        np.testing.assert_allclose(seen.mean[i, :2], np.sqrt(alpha) * np.array([0.5, 2.0]), rtol=1e-5)
        np.testing.assert_allclose(seen.variance[i], [s2, s2 + 0.3 * alpha, INF], rtol=1e-5)
    assert bool(jnp.isfinite(observe(Normal(jnp.ones((3, 3)), jnp.ones((3, 3))), seen)[0].mean).all())


def transition(schedule, t):
    """q(x_t | x_0), [x_0, x_t], from the definition: a bit is kept or a new coin; float64."""
    lost = np.float64(schedule.sigma2[t])
    return np.where(STRINGS[:, None] == STRINGS[None], 1 - lost / 2, lost / 2).prod(-1)


@pytest.mark.parametrize("t", [0, 1, 4, 9, 10])
def test_diffused_bits_are_enumerated(t):
    schedule = schedules.erase(10)
    logits = jnp.asarray([[-INF, -2.0, 0.0, 0.5, INF], [INF, 0.3, 8.0, 0.0, 0.0], [-0.01, 4.0, 1.0, -1.0, -9.0]])
    seen = Binomial(schedule).diffuse(Bernoulli(logits), jnp.full(3, t, jnp.int32))
    joint = probabilities(logits) @ transition(schedule, t)
    np.testing.assert_allclose(probabilities(seen.logits), joint / joint.sum(1, keepdims=True), rtol=2e-5, atol=1e-7)
    if t == 10:
        np.testing.assert_array_equal(seen.logits, 0)


# --- What was observed, in its place ---


@pytest.mark.parametrize("full", [False, True])
def test_renoised_observations_are_draws_of_x_t(full):
    """y = x_0 + s noise, in its place in x_t: the same law as sqrt(alpha_bar) x_0 + sqrt(sigma2) noise."""
    schedule = schedules.geometric(40, beta_1=1e-3)
    nsr = np.exp(np.asarray(schedule.log_nsr, float))
    law = full_law(41, 3)
    p = law if full else Normal(law.mean, jnp.abs(law.mean) + 0.1)
    t = jnp.arange(41)
    s2 = 0.04
    y = jnp.array([[0.8, -0.5, NAN]])
    r = Normal(y, jnp.array([[0.0, s2, INF]]))
    after = jax.jit(Gaussian(schedule).renoise)(r, p, t)
    assert type(after) is type(p)
    before, covariance = (covariance_of(q) if full else np.asarray(q.variance, float) for q in (p, after))
    for i in range(41):
        alpha, sigma2 = (np.float64(a[i]) for a in (schedule.alpha_bar, schedule.sigma2))
        replaced = np.array([True, nsr[i] >= s2, False])
        place = np.sqrt(alpha) * np.array([0.8, -0.5, 0.0])
        np.testing.assert_allclose(after.mean[i], np.where(replaced, place, p.mean[i]), rtol=1e-5)
        # Noise of the observation, scaled, and what was added to it.
        own = np.where(replaced, sigma2 - alpha * np.array([0, s2, 0]), 0.0)
        if full:
            keep = ~replaced[:, None] & ~replaced[None]
            np.testing.assert_allclose(covariance[i], np.where(keep, before[i], 0) + np.diag(own), rtol=1e-4, atol=2e-6)
        else:
            np.testing.assert_allclose(covariance[i], np.where(replaced, own, before[i]), rtol=1e-4, atol=1e-7)
    assert {bool(v >= s2) for v in nsr} == {True, False}


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.2])
def test_renoised_bits_compose_to_the_marginal(rate):
    """Flips of the observation, then those of renoising: q(x_t | x_0), over all strings; below, p itself."""
    schedule = schedules.erase(10, beta_1=0.03)
    flipped = np.where(STRINGS[:, None] == STRINGS[None], 1 - rate, rate).prod(-1)
    sign = 2 * jnp.asarray(STRINGS, jnp.float32) - 1
    size = np.log1p(-rate) - np.log(rate) if rate else INF
    p = Bernoulli(jnp.full((32, 5), 0.7))
    before = 0
    process = Binomial(schedule)
    renoised = jax.jit(lambda r, t: process.renoise(r, p, t))
    for t in range(11):
        after = renoised(Bernoulli(sign * size), jnp.full(32, t, jnp.int32))
        if float(schedule.sigma2[t]) < 2 * rate:
            np.testing.assert_array_equal(after.logits, p.logits)
            before += 1
        else:
            np.testing.assert_allclose(flipped @ probabilities(after.logits), transition(schedule, t), atol=1e-6)
    assert before == {0.0: 0, 0.02: 2, 0.2: 5}[rate]
    unseen = renoised(Bernoulli(jnp.zeros((1, 5))), jnp.full(32, 5, jnp.int32))
    np.testing.assert_array_equal(unseen.logits, p.logits)


# --- All of them, in one trace ---


def test_one_trace_serves_all_times_and_evidence():
    process = Gaussian(schedules.geometric(20))
    traces = []

    @jax.jit
    def everything(p, r, x_t, t):
        traces.append(1)
        law = process.posterior(p.product(r)[0], x_t, t)
        return process.renoise(process.diffuse(r, t), law, t - 1)

    for i, t in enumerate((1, 7, 20)):
        r = Normal(jnp.ones((2, 3)), jnp.asarray([[0.0, 0.3, INF], [INF, 1.0, 0.0]]))
        out = everything(full_law(2, 3, seed=i), r, jnp.ones((2, 3)), jnp.full(2, t, jnp.int32))
        assert bool(jnp.isfinite(out.scale_tril).all())
    assert len(traces) == 1


def test_laws_are_the_same_example_by_example_under_vmap():
    p, r = full_law(4, 3), jax.tree.map(lambda a: a[:4], every_kind(3))
    together, alone = observe(p, r), jax.jit(jax.vmap(observe))(p, r)
    for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)

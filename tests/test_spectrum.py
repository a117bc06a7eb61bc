"""Noise of the data's spectrum: density preserving, exact for Gaussian data, and a process like any other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dpm_jax import (
    Binomial,
    Gaussian,
    Model,
    Normal,
    bound,
    coloured,
    ddim,
    forward_edge,
    guidance,
    optimal,
    predictions,
    respace,
    respacing,
    sample,
    schedules,
    smc,
    spectrum,
)
from tests import contract

KEY = jax.random.key(0)
SHAPE = (3, 4, 2)
DIM = 24


def correlated(num, shape=SHAPE, seed=0):
    """Images whose pixels and channels go together, and the covariance of all numbers of one."""
    rows, columns, channels = (np.arange(size)[:, None] - np.arange(size) for size in shape)
    covariance = np.kron(np.kron(0.8 ** np.abs(rows), 0.6 ** np.abs(columns)), 0.9 ** np.abs(channels)) + 0.01 * np.eye(
        np.prod(shape)
    )
    x = np.random.default_rng(seed).multivariate_normal(np.zeros(len(covariance)), covariance, num)
    return x.reshape(num, *shape).astype(np.float32), covariance


def as_matrix(function, shape=SHAPE):
    size = int(np.prod(shape))
    return np.asarray(function(jnp.eye(size).reshape(size, *shape)), np.float64).reshape(size, size)


def test_it_whitens_what_it_was_fitted_to_and_comes_back():
    x, _ = correlated(4000)
    found = spectrum.fit(x)
    z = found.whiten(jnp.asarray(x))
    np.testing.assert_allclose(found.colour(z), x, atol=2e-5)
    whiten, colour = as_matrix(found.whiten), as_matrix(found.colour)
    np.testing.assert_allclose(whiten @ colour, np.eye(DIM), atol=1e-5)
    np.testing.assert_allclose(colour, colour.T, atol=1e-6)
    np.testing.assert_allclose(np.linalg.slogdet(whiten)[1], found.log_det(), rtol=1e-5)
    # In the basis that it is fitted in every coefficient has unit variance; in the pixels, their mean has.
    assert abs(float(jnp.mean(z**2)) - 1) < 1e-4


def test_laws_are_those_of_the_normal_with_that_covariance():
    x, _ = correlated(2000)
    found = spectrum.fit(x)
    colour = as_matrix(found.colour)
    white = Normal(jax.random.normal(KEY, (2, *SHAPE)), jnp.linspace(0.5, 2.0, DIM).reshape(SHAPE))
    law = coloured.ColouredNormal(white, found)
    variance = colour @ np.diag(np.asarray(white.variance[0], np.float64).ravel()) @ colour
    truth = stats.multivariate_normal(colour @ np.asarray(white.mean[0], np.float64).ravel(), variance)
    points = jnp.asarray(x[:2])
    np.testing.assert_allclose(law.log_prob(points)[0], truth.logpdf(x[0].ravel()), rtol=1e-4)
    np.testing.assert_allclose(law.entropy()[0], truth.entropy(), rtol=1e-4)
    np.testing.assert_allclose(law.variance[0].ravel(), np.diag(variance), rtol=1e-4)
    np.testing.assert_allclose(law.mean[0].ravel(), truth.mean, atol=1e-4)
    draws = jax.vmap(law.sample)(jax.random.split(KEY, 4000))[:, 0].reshape(4000, DIM)
    np.testing.assert_allclose(np.cov(np.asarray(draws), rowvar=False), variance, atol=0.4)
    slope = jax.random.normal(jax.random.key(1), (2, *SHAPE))
    moved = (law.tilt(slope).mean - law.mean)[0].ravel()
    np.testing.assert_allclose(moved, variance @ np.asarray(slope[0], np.float64).ravel(), rtol=1e-3, atol=1e-3)
    evidence = coloured.ColouredNormal(Normal(jnp.zeros((2, *SHAPE)), 0.5), found)
    product, log_z = law.product(evidence)
    whole = law.log_prob(points) + evidence.log_prob(points)
    np.testing.assert_allclose(whole - product.log_prob(points), log_z, rtol=1e-4)
    by_function = law.tilt(lambda x: (x * slope).sum((1, 2, 3))).mean
    np.testing.assert_allclose(by_function, law.tilt(slope).mean, rtol=1e-4, atol=1e-4)


def test_it_keeps_the_contracts_of_laws_and_processes():
    x, _ = correlated(500, (2, 1, 1))
    found = spectrum.fit(x)
    laws = [
        coloured.ColouredNormal(
            Normal(jnp.full((3, 2, 1, 1), mean), jnp.array([0.5, 1.0, 2.0]).reshape(3, 1, 1, 1)), found
        )
        for mean in (0.3, -0.2)
    ]
    contract.check_distribution(*laws, contract.reals)
    process = coloured.Coloured(schedules.geometric(20, beta_1=0.05), found)
    start = coloured.ColouredNormal(Normal(jnp.asarray(x[:3]), 0.2 * jnp.ones((3, 2, 1, 1))), found)
    contract.check_process(process, jnp.asarray(x[:3]), start, contract.reals, rounding=1e-6)


def exact(num_timesteps, found):
    """The exact model of data whose covariance is M M^T: z is standard normal."""
    process = Gaussian(schedules.geometric(num_timesteps, beta_1=1e-3, nsr_final=1e4))

    def denoise(z_t, t):
        white = optimal.normal(process, jnp.zeros(1), jnp.eye(1))
        flat = white.denoised(z_t.reshape(-1, 1), jnp.repeat(t, DIM))
        variance = flat.scale_tril[..., 0].reshape(z_t.shape) ** 2
        return Normal(flat.mean.reshape(z_t.shape), variance)

    return coloured.in_colour(Model(process, denoise), found)


@pytest.mark.parametrize("num_timesteps", [1, 2, 50])
def test_k_of_gaussian_data_is_their_log_likelihood(num_timesteps):
    x, _ = correlated(2000)
    found = spectrum.fit(x)
    colour = as_matrix(found.colour)
    model = exact(num_timesteps, found)
    data = np.random.default_rng(1).normal(size=(3000, DIM)) @ colour
    truth = stats.multivariate_normal(np.zeros(DIM), colour @ colour).logpdf(data)
    x_0 = jnp.asarray(data.reshape(-1, *SHAPE), jnp.float32)
    lost = truth - np.asarray(jax.jit(lambda key: bound.evaluate(key, model, x_0, edge="decoder").k)(KEY))
    assert abs(lost.mean()) < 4 * lost.std() / np.sqrt(len(lost)) + 0.01
    if num_timesteps == 50:
        limit = jax.jit(lambda key: bound.limit(key, model, x_0, edge="decoder", num_times=4))(KEY)
        assert abs(float(limit.mean) - truth.mean()) < 4 * float(limit.stderr)
        forward = bound.mean_and_stderr(jax.jit(lambda key: bound.evaluate(key, forward_edge(model), x_0).k)(KEY))
        assert -2 < float(forward.mean) - truth.mean() < 4 * float(forward.stderr)


def test_samples_have_the_covariance_and_shorter_chains_do_too():
    x, _ = correlated(2000)
    found = spectrum.fit(x)
    colour = as_matrix(found.colour)
    model = exact(20, found)
    for chain in (model, respace(model, np.array([5, 10, 20]))):
        drawn = np.asarray(jax.jit(lambda key, chain=chain: sample(key, chain, 6000, SHAPE))(KEY)).reshape(6000, DIM)
        np.testing.assert_allclose(np.cov(drawn, rowvar=False), colour @ colour, atol=0.25)


def test_a_network_that_knows_nothing_is_the_gaussian_model():
    """With white noise its K is that of a standard normal; here it is that of the best stationary Gaussian model."""
    x, covariance = correlated(4000, (8, 8, 1))
    held_out, _ = correlated(500, (8, 8, 1), seed=1)
    process = Gaussian(schedules.geometric(100, beta_1=1e-3))
    white = predictions.gaussian(process, lambda x_t, t: jnp.zeros((*x_t.shape[:-1], 2)), prediction="residual")
    models = {"white": forward_edge(white), "coloured": forward_edge(coloured.in_colour(white, spectrum.fit(x)))}
    k = {
        name: float(jax.jit(lambda key, model=model: bound.evaluate(key, model, jnp.asarray(held_out)).k.mean())(KEY))
        for name, model in models.items()
    }
    truth = stats.multivariate_normal(np.zeros(64), covariance).logpdf(held_out.reshape(-1, 64)).mean()
    standard = stats.norm.logpdf(held_out).sum((1, 2, 3)).mean()
    assert abs(k["white"] - standard) < 2
    assert k["coloured"] - standard > 0.8 * (truth - standard) > 20
    assert k["coloured"] < truth + 1


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_implicit_chains_are_those_of_z(eta):
    x, _ = correlated(2000)
    found = spectrum.fit(x)
    colour = as_matrix(found.colour)
    drawn = np.asarray(jax.jit(lambda key: sample(key, ddim(exact(60, found), eta), 6000, SHAPE))(KEY))
    np.testing.assert_allclose(np.cov(drawn.reshape(6000, DIM), rowvar=False), colour @ colour, atol=0.25)


def test_costs_of_shorter_chains_are_those_of_their_bounds():
    x, _ = correlated(2000)
    model, times = forward_edge(exact(20, spectrum.fit(x))), np.array([2, 5, 9, 20])
    data, keys = jnp.asarray(x[:400]), jax.random.split(KEY, 16)
    costs = jax.jit(lambda key: respacing.costs(key, model, data))
    bounds = jax.jit(lambda key: bound.evaluate(key, respace(model, times), data).k.mean())
    apart = np.array(
        [respacing.cost_of(costs(a), times) + float(bounds(b)) for a, b in zip(keys[:8], keys[8:], strict=True)]
    )
    assert abs(apart.mean()) < 4 * apart.std(ddof=1) / np.sqrt(8) < 0.6


def test_matched_given_some_pixels_is_the_normal_posterior():
    """Samples, and the probability of what was observed, against the closed form."""
    x, _ = correlated(2000)
    found, noise = spectrum.fit(x), 0.3
    covariance = as_matrix(found.colour) @ as_matrix(found.colour)
    seen = np.random.default_rng(0).random(SHAPE) < 0.4
    y = np.where(seen, x[0], 0.0)
    variance = jnp.where(seen, noise**2, jnp.inf)
    r = guidance.Linear(lambda x: jnp.where(seen, x, 0.0), jnp.asarray(y)[None], variance[None])
    model, i = exact(60, found), np.flatnonzero(seen)
    conditioned = guidance.condition(model, r, "matched", iterations=len(i))
    drawn = np.asarray(jax.jit(lambda key: sample(key, conditioned, 4000, SHAPE))(KEY)).reshape(4000, DIM)
    of_seen = covariance[np.ix_(i, i)] + noise**2 * np.eye(len(i))
    gain = np.linalg.solve(of_seen, covariance[i]).T
    spread = covariance - gain @ covariance[i]
    np.testing.assert_allclose(drawn.mean(0), gain @ y.ravel()[i], atol=0.08)
    np.testing.assert_allclose(np.cov(drawn, rowvar=False), spread, atol=0.15)
    run = jax.jit(lambda key: smc.sample(key, model, r, "matched", 500, shape=SHAPE, iterations=len(i)))
    particles = run(jax.random.key(1))
    truth = stats.multivariate_normal(np.zeros(len(i)), of_seen).logpdf(y.ravel()[i])
    assert abs(float(particles.log_evidence[0]) - truth) < 4 * float(particles.stderr[0]) + 0.05
    with pytest.raises(ValueError, match="r: evidence for 'matched', where the noise has a spectrum, is Linear"):
        guidance.condition(model, model.process.prior((1, *SHAPE)), "matched")
    with pytest.raises(ValueError, match="r: evidence for this process is a ColouredNormal, got a Normal"):
        guidance.condition(model, Normal.point(jnp.zeros((1, *SHAPE))), "guided")


def test_other_sizes_have_the_spectrum_by_frequency():
    x, _ = correlated(4000, (8, 8, 1))
    found = spectrum.fit(x)
    assert found.resized(8, 8).log_scale == pytest.approx(found.log_scale, abs=1e-6)
    large = found.resized(16, 24)
    assert large.log_scale.shape == (16, 24, 1)
    np.testing.assert_allclose(large.log_scale[::2, ::3], found.log_scale, atol=1e-6)
    drawn = large.colour(jax.random.normal(KEY, (200, 16, 24, 1)))
    assert found.log_det((16, 24, 1)) == pytest.approx(-np.sum(large.log_scale, dtype=np.float64), rel=1e-6)
    np.testing.assert_array_equal(found.colour(drawn), large.colour(drawn))
    assert found.resized(16, 24) is large
    neighbours = float((drawn[:, 1:] * drawn[:, :-1]).mean() / (drawn**2).mean())
    assert abs(neighbours - (x[:, 1:] * x[:, :-1]).mean() / (x**2).mean()) < 0.15


def test_what_does_not_fit_is_refused():
    x, _ = correlated(100)
    found = spectrum.fit(x)
    with pytest.raises(ValueError, match=r"images: must have shape \[N, H, W, C\]"):
        spectrum.fit(x[0, 0])
    with pytest.raises(ValueError, match="images: hold nothing but zeros"):
        spectrum.fit(0 * x)
    with pytest.raises(ValueError, match=r"x: images \[\.\.\., H, W, 2\] are needed, got shape \(1, 3, 4, 1\)"):
        found.whiten(jnp.zeros((1, 3, 4, 1)))
    flips = Binomial(schedules.erase(10))
    with pytest.raises(ValueError, match="model: must be of the Gaussian process, got Binomial"):
        coloured.in_colour(Model(flips, lambda x, t: None), found)
    with pytest.raises(ValueError, match="model: must be of the process Coloured, got Binomial"):
        coloured.in_white(Model(flips, lambda x, t: None))

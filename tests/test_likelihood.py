"""AIS against closed forms and enumeration: its weights, its bounds on both sides, its traces."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from dpm_jax import (
    Bernoulli,
    Binomial,
    Gaussian,
    Model,
    bound,
    forward_edge,
    likelihood,
    optimal,
    predictions,
    schedules,
)
from tests import chains

KEY = jax.random.key(0)
MEAN = jnp.array([0.3, -0.2])
COVARIANCE = jnp.array([[1.4, 0.5], [0.5, 0.6]])


def mean_and_stderr(values):
    values = np.asarray(values, np.float64)
    return values.mean(), values.std(ddof=1) / len(values) ** 0.5


def normal_model(T):
    """The optimal chain of N(MEAN, COVARIANCE), with the paper's edge; with its own where nothing else is learned."""
    model = optimal.normal(Gaussian(schedules.geometric(T, beta_1=1e-2, nsr_final=50)), MEAN, COVARIANCE)
    return model if T == 1 else forward_edge(model)


def log_likelihood_of_a_linear_chain(model, x_0):
    """log p(x_0), float64."""
    return multivariate_normal.logpdf(np.asarray(x_0, float), *chains.normal_law(model, 2))


@pytest.mark.parametrize(("T", "beta_1", "atol"), [(2, 1e-2, 1e-4), (1000, 1e-4, 3e-4), (1000, 3e-7, 5e-3)])
def test_a_quasi_static_chain_gives_every_trajectory_the_same_weight(T, beta_1, atol):
    """Section 2.4: standard normal data and exact steps; w = p(x_0).

    What differs is float32's: an x rounded to 6e-8 against the steps' standard deviation of 1e-4, without a bias.
    """
    model = optimal.normal(Gaussian(schedules.geometric(T, beta_1=beta_1)), jnp.zeros(2), jnp.eye(2))
    s = jax.jit(lambda key: likelihood.sandwich(key, model, 50, (2,), 4))(KEY)
    exact = multivariate_normal.logpdf(np.asarray(s.x_0, float), np.zeros(2), np.eye(2))
    chex.assert_shape([s.x_0, s.own, s.log_weights], [(50, 2), (50,), (50, 4)])
    chex.assert_type([s.x_0, s.own, s.log_weights], jnp.float32)
    np.testing.assert_allclose(s.log_weights, np.tile(exact[:, None], 4), atol=atol)
    np.testing.assert_allclose(s.own, exact, atol=atol)
    assert abs(float(jnp.mean(likelihood.lower(s.log_weights, 1))) - exact.mean()) < atol / 10
    np.testing.assert_allclose(likelihood.effective_sample_size(s.log_weights), 4, rtol=1e-3)


def test_fair_coins_weigh_the_same_exactly():
    process = Binomial(schedules.erase(1000))  # nu_T is infinite
    model = predictions.binomial(process, lambda x, t: jnp.zeros_like(x), prediction="perturbation")
    s = likelihood.sandwich(KEY, model, 8, (5,), 3)
    np.testing.assert_allclose(s.log_weights, -5 * np.log(2), atol=2e-3)
    np.testing.assert_allclose(s.own, -5 * np.log(2), atol=2e-3)


@pytest.mark.parametrize("T", [1, 12])
def test_ais_rises_to_the_likelihood_of_a_linear_chain(T):
    model = normal_model(T)
    # Data beside the model's, so that trajectories do differ.
    x_0 = MEAN + 0.8 * jax.random.normal(KEY, (200, 2))
    weights = jax.jit(lambda x: likelihood.log_weights(jax.random.key(1), model, x, 1000))(x_0)
    exact = log_likelihood_of_a_linear_chain(model, x_0)
    gaps = [exact - np.asarray(likelihood.lower(weights, k), float) for k in (1, 10, 100, 1000)]
    for gap in gaps:
        mean, stderr = mean_and_stderr(gap)
        assert mean > -5 * stderr
    for wide, narrow in itertools.pairwise(gaps):
        assert (wide - narrow).mean() > 0
    # The mean of w, and not of its logarithm, is p(x_0): E w / p(x_0) = 1.
    mean, stderr = mean_and_stderr(np.exp(np.asarray(weights, float) - exact[:, None]).mean(1))
    assert abs(mean - 1) < 5 * stderr < 0.1
    ess = float(jnp.mean(likelihood.effective_sample_size(weights)))
    assert 10 < ess <= 1000
    mean, stderr = mean_and_stderr(gaps[-1])
    assert mean < 1.0 / ess + 5 * stderr
    assert mean_and_stderr(gaps[0])[0] > 10 * mean


def test_one_trajectory_is_k():
    model = normal_model(12)
    x_0 = jnp.repeat(MEAN + 0.8 * jax.random.normal(KEY, (50, 2)), 100, axis=0)
    single = likelihood.log_weights(jax.random.key(1), model, x_0, 1)[:, 0]
    k = bound.evaluate(jax.random.key(2), model, x_0).k
    mean, stderr = mean_and_stderr(np.asarray(single - k, float))
    assert abs(mean) < 4 * stderr < 0.2


def test_a_linear_chain_is_sandwiched():
    model = normal_model(12)
    s = jax.jit(lambda key: likelihood.sandwich(key, model, 1000, (2,), 100, chunk_size=30_000))(KEY)
    exact = log_likelihood_of_a_linear_chain(model, s.x_0)
    # The samples are the model's: -E log p is its entropy.
    widths = []
    for k in (1, 10, 100):
        low, high = likelihood.lower(s.log_weights, k), likelihood.upper(s.own, s.log_weights, k)
        below, above = mean_and_stderr(exact - np.asarray(low, float)), mean_and_stderr(np.asarray(high, float) - exact)
        assert below[0] > -4 * below[1]
        assert above[0] > -4 * above[1]
        widths.append(float(jnp.mean(high - low)))
    assert widths[0] > 5 * widths[1] > 10 * widths[2] > -0.01


# --- Bits, by enumeration ---


def bit_model(T, dim):
    """Some factorised chain of bits that correlates them, with the paper's edge."""
    process = Binomial(schedules.erase(T, beta_1=None if T == 1 else 0.05))
    mixing = 2 * jax.random.normal(jax.random.key(5), (dim, dim))

    def network(x_t, t):
        return (2 * x_t - 1) @ mixing / (1 + t[:, None]) + 0.3

    return forward_edge(predictions.binomial(process, network, prediction="perturbation"))


def log_bernoulli(logits, x):
    logits = np.asarray(logits, float)
    return -np.logaddexp(0, np.where(np.asarray(x) > 0.5, -logits, logits)).sum(-1)


def every_trajectory(model, dim):
    """log p(x_{0:T}) and log q(x_{1:T} | x_0) of all of them, float64, [2^d] * (T + 1), x_0's axis first."""
    T, num = model.num_timesteps, 2**dim
    strings = jnp.asarray(list(itertools.product((0.0, 1.0), repeat=dim)))
    paths = np.asarray(list(itertools.product(range(num), repeat=T + 1)))
    log_p, log_q = np.full(len(paths), -dim * np.log(2)), np.zeros(len(paths))
    for t in range(1, T + 1):
        times = jnp.full(num, t)
        before, after = paths[:, t - 1], paths[:, t]
        down, up = model.reverse(strings, times).logits, model.process.forward(strings, times).logits
        log_p += log_bernoulli(down[after], strings[before])
        log_q += log_bernoulli(up[before], strings[after])
    return strings, log_p.reshape(num, -1), log_q.reshape(num, -1)


@pytest.mark.parametrize(("T", "dim"), [(3, 2), (1, 5)])
def test_enumeration_is_the_sum_over_trajectories(T, dim):
    model = bit_model(T, dim)
    strings, log_p = likelihood.enumerate_bits(model, dim)
    expected_strings, paths, _ = every_trajectory(model, dim)
    np.testing.assert_array_equal(strings, expected_strings)
    np.testing.assert_allclose(log_p, logsumexp(paths, axis=1), atol=2e-5)


def test_weights_of_bits_have_the_means_that_enumeration_gives():
    """E_q log w below, E_p log w above, E_q w = p(x_0): every string and trajectory, T = 3."""
    model = bit_model(3, 2)
    strings, log_p, log_q = every_trajectory(model, 2)
    log_w = log_p - log_q
    exact = logsumexp(log_p, axis=1)
    weights = np.asarray(likelihood.log_weights(jax.random.key(1), model, strings, 20_000), np.float64)
    for i in range(4):
        mean, stderr = mean_and_stderr(weights[i])
        assert abs(mean - (np.exp(log_q[i]) * log_w[i]).sum()) < 4 * stderr
        mean, stderr = mean_and_stderr(np.exp(weights[i] - exact[i]))
        assert abs(mean - 1) < 4 * stderr < 0.05
    s = likelihood.sandwich(jax.random.key(2), model, 20_000, (2,), 1)
    number = np.asarray(s.x_0 @ jnp.array([2.0, 1.0]), int)
    for i in range(4):
        share, stderr = mean_and_stderr(number == i)
        assert abs(share - np.exp(exact[i])) < 4 * stderr
        mean, stderr = mean_and_stderr(np.asarray(s.own)[number == i])
        assert abs(mean - (np.exp(log_p[i] - exact[i]) * log_w[i]).sum()) < 4 * stderr


def test_five_bits_by_ais_and_by_enumeration():
    model = bit_model(20, 5)
    strings, log_p = likelihood.enumerate_bits(model, 5)
    np.testing.assert_allclose(logsumexp(np.asarray(log_p, float)), 0, atol=1e-5)
    weights = jax.jit(lambda: likelihood.log_weights(KEY, model, strings, 2000))()
    ratio = np.exp(np.asarray(weights, float) - np.asarray(log_p, float)[:, None])
    stderr = ratio.std(1, ddof=1) / 2000**0.5
    assert (np.abs(ratio.mean(1) - 1) < 5 * stderr).all()
    s = jax.jit(lambda key: likelihood.sandwich(key, model, 1000, (5,), 200))(jax.random.key(3))
    exact = np.asarray(log_p)[np.asarray(s.x_0 @ 2.0 ** jnp.arange(5)[::-1], int)]
    for k in (1, 20, 200):
        below = mean_and_stderr(exact - likelihood.lower(s.log_weights, k))
        above = mean_and_stderr(likelihood.upper(s.own, s.log_weights, k) - exact)
        assert below[0] > -4 * below[1]
        assert above[0] > -4 * above[1]


def test_enumeration_keeps_small_probabilities_and_certain_bits():
    process = Binomial(schedules.erase(1000, beta_1=1e-5))
    points = jnp.asarray([[1.0, 0, 0, 0], [0, 1, 1, 0]])
    model = optimal.finite_bits(process, points, jnp.log(jnp.array([0.25, 0.75])))
    strings, log_p = jax.jit(lambda: likelihood.enumerate_bits(model, 4))()
    np.testing.assert_allclose(logsumexp(np.asarray(log_p, float)), 0, atol=1e-4)
    weight = {tuple(map(int, s)): np.exp(p) for s, p in zip(np.asarray(strings), np.asarray(log_p, float), strict=True)}
    assert weight[1, 0, 0, 0] == pytest.approx(0.25, abs=0.01)
    assert weight[0, 1, 1, 0] == pytest.approx(0.75, abs=0.01)
    certain = Model.from_steps(Binomial(schedules.erase(3)), lambda x, t: Bernoulli(jnp.full_like(x, -jnp.inf)))
    certain = likelihood.enumerate_bits(certain, 2)[1]
    np.testing.assert_allclose(np.exp(certain), [1, 0, 0, 0], atol=1e-30)
    for dim in (0, 13):
        with pytest.raises(ValueError, match=f"got {dim}"):
            likelihood.enumerate_bits(model, dim)


# --- Bounds from weights; traces ---


def test_bounds_from_given_weights():
    weights = np.random.default_rng(0).normal(-3000, 2, (4, 10))
    own = np.array([-2999.0, -3001, -2998, -3000])

    @jax.jit
    def run(weights, own):
        low = {k: likelihood.lower(weights, k) for k in (1, 3, 10)}
        high = {k: likelihood.upper(own, weights, k) for k in (1, 3)}
        size = {k: likelihood.effective_sample_size(weights, k) for k in (1, 10)}
        return low, high, size, likelihood.log_mean(weights)

    low, high, size, (log_mean, stderr) = run(jnp.asarray(weights, jnp.float32), jnp.asarray(own, jnp.float32))
    np.testing.assert_allclose(low[1], weights.mean(1), atol=2e-3)
    np.testing.assert_allclose(low[10], logsumexp(weights, axis=1) - np.log(10), atol=2e-3)
    # Three disjoint groups of three; the last weight is left over.
    expected = (logsumexp(weights[:, :9].reshape(4, 3, 3), axis=2) - np.log(3)).mean(1)
    np.testing.assert_allclose(low[3], expected, atol=2e-3)
    np.testing.assert_allclose(high[1], own, atol=2e-3)
    three = np.concatenate([np.tile(own[:, None, None], (1, 5, 1)), weights.reshape(4, 5, 2)], axis=2)
    np.testing.assert_allclose(high[3], (logsumexp(three, axis=2) - np.log(3)).mean(1), atol=2e-3)
    w = np.exp(weights - weights.max())
    np.testing.assert_allclose(size[10], w.sum(1) ** 2 / (w**2).sum(1), rtol=5e-3)
    np.testing.assert_allclose(size[1], 1, rtol=1e-5)
    # d log m = dm / m, and the error of m is the deviation of one weight divided by the root of their number.
    np.testing.assert_allclose(log_mean, low[10], atol=1e-6)
    np.testing.assert_allclose(stderr, w.std(1, ddof=1) / 10**0.5 / w.mean(1), rtol=5e-3)
    for k in (0, 11):
        with pytest.raises(ValueError, match=f"k: {k} "):
            likelihood.lower(jnp.asarray(weights), k)
    with pytest.raises(ValueError, match="k: 12 asks for groups of 11"):
        likelihood.upper(jnp.asarray(own), jnp.asarray(weights), 12)


def test_the_errors_of_a_conditional_add_in_squares():
    """Weights 1 and 3 have the mean 2, with an error of half of it."""
    weights = jnp.log(jnp.array([[1.0, 3.0]]))
    found = jax.jit(likelihood.conditional)(weights, jnp.log(jnp.array([8.0])), jnp.array([1.2]))
    np.testing.assert_allclose(found.log_prob, -np.log(4), rtol=1e-5)
    np.testing.assert_allclose(found.stderr, 1.3, rtol=1e-5)


@pytest.mark.parametrize("chunk_size", [None, 70, 1000])
def test_chunks_are_draws_of_the_same_law(chunk_size):
    model = bit_model(3, 2)
    x_0 = jnp.array([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    weights = likelihood.log_weights(KEY, model, x_0, 300, chunk_size=chunk_size)
    assert weights.shape == (4, 300)
    _, log_p, _ = every_trajectory(model, 2)
    ratio = np.exp(np.asarray(weights, float) - logsumexp(log_p, axis=1)[:, None])
    assert (np.abs(ratio.mean(1) - 1) < 4 * ratio.std(1, ddof=1) / 300**0.5).all()
    # Trajectories do not share noise: not within an example, nor between chunks.
    if chunk_size is None:
        whole = likelihood.log_weights(KEY, model, x_0, 300, chunk_size=10**6)
        np.testing.assert_array_equal(weights, whole)
    normal = likelihood.log_weights(KEY, normal_model(3), jnp.zeros((2, 2)), 60, chunk_size=chunk_size)
    assert len(np.unique(np.asarray(normal))) == 120


def test_under_jit_grad_and_vmap():
    process = Gaussian(schedules.geometric(5, beta_1=1e-2))
    traces = []

    def objective(scale, key, x_0):
        traces.append(None)
        model = forward_edge(optimal.normal(process, MEAN, scale * COVARIANCE))
        return likelihood.lower(likelihood.log_weights(key, model, x_0, 4), 4).mean()

    x_0 = MEAN + jax.random.normal(KEY, (64, 2)) @ jnp.linalg.cholesky(COVARIANCE).T
    compiled = jax.jit(jax.value_and_grad(objective))
    value, slope = compiled(jnp.float32(1.5), KEY, x_0)
    compiled(jnp.float32(1.4), jax.random.key(1), x_0)
    step = 1e-2
    ends = [float(compiled(jnp.float32(1.5 + d), KEY, x_0)[0]) for d in (-step, step)]
    assert float(slope) == pytest.approx((ends[1] - ends[0]) / (2 * step), rel=0.05)
    assert value.dtype == jnp.float32
    assert len(traces) == 1

    model = normal_model(5)
    one = jax.jit(lambda key, x: likelihood.log_weights(key, model, x[None], 3)[0])
    keys = jax.random.split(KEY, 3)
    singly = jnp.stack([one(key, x) for key, x in zip(keys, x_0[:3], strict=True)])
    np.testing.assert_allclose(jax.jit(jax.vmap(one))(keys, x_0[:3]), singly, rtol=1e-3)

"""Posteriors: what is exact against conditioning in float64 and enumeration, what is refused, and one sampler for all.

Chains of normal steps that are affine in x_t have a normal law, that is followed in float64 without drawing
anything; chains of five bits have one of 32 probabilities. So most of this has no Monte Carlo error.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy.special import expit

from dpm_jax import (
    Bernoulli,
    Binomial,
    FullNormal,
    Gaussian,
    Model,
    Normal,
    forward_edge,
    guidance,
    optimal,
    predictions,
    sampling,
    schedules,
)
from tests.chains import STRINGS, bits_law, conditioned, normal_chain, normal_law, string_law

KEY = jax.random.key(0)
INF, NAN = np.inf, np.nan

# Three correlated coordinates; the last two evidence, the first hidden.
MEAN = np.array([0.3, -0.2, 0.1])
COVARIANCE = np.array([[1.0, 0.6, 0.3], [0.6, 0.9, -0.1], [0.3, -0.1, 0.7]])
T = 80
DATA = (MEAN, COVARIANCE)
SCHEDULE = schedules.geometric(T, beta_1=1e-4)
PROCESS = Gaussian(SCHEDULE)
OPERATOR = np.array([[0.6, 0.5, -0.4], [0.1, -0.3, 0.8]])
PARTIAL = Normal(jnp.array([[NAN, 0.9, -0.8]]), jnp.array([[INF, 0.0, 0.2]]))


full_model, diagonal_model = normal_chain(SCHEDULE, MEAN, COVARIANCE)


def standard_model(schedule):
    """The model of standard normal data: zero outputs."""
    return predictions.gaussian(Gaussian(schedule), lambda x, t: jnp.zeros((*x.shape[:-1], 2 * x.shape[-1])))


def distance(law, exact):
    """The largest differences of means and standard deviations, in standard deviations of the data."""
    sd = np.sqrt(np.diag(COVARIANCE))
    scale = np.outer(sd, sd)
    return max(np.abs((law[0] - exact[0]) / sd).max(), np.abs((law[1] - exact[1]) / scale).max())


EXACT_PARTIAL, _ = conditioned(DATA, np.eye(3)[1:], np.array([0.9, -0.8]), np.array([0.0, 0.2]))


# --- What is exact: normal data ---


def test_the_model_is_the_data():
    """And it is what `optimal.normal` has."""
    for model in (full_model, diagonal_model):
        assert distance(normal_law(model, 3), DATA) < 0.03
    ours = optimal.normal(PROCESS, jnp.asarray(MEAN, jnp.float32), jnp.asarray(COVARIANCE, jnp.float32))
    x, t = jax.random.normal(KEY, (4, 3)), jnp.array([1, 2, 40, T])
    ours, exact = jax.jit(forward_edge(ours).reverse)(x, t), full_model.reverse(x, t)
    np.testing.assert_allclose(ours.mean, exact.mean, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(ours.scale_tril, exact.scale_tril, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("model", "how"), [(full_model, "denoised"), (full_model, "matched"), (diagonal_model, "matched")]
)
def test_exact_for_evidence_in_part(model, how):
    law = normal_law(guidance.condition(model, PARTIAL, how), 3)
    assert distance(law, EXACT_PARTIAL) < 0.03
    # What is known is known.
    np.testing.assert_allclose(law[0][1], 0.9, atol=1e-5)
    np.testing.assert_allclose(law[1][1], 0, atol=1e-6)


@pytest.mark.parametrize("how", ["constant", "annealed", "renoised", "denoised"])
def test_the_others_are_not(how):
    """So that the tests above can fail. None hears the correlations of independent steps at all times."""
    law = normal_law(guidance.condition(diagonal_model, PARTIAL, how), 3)
    assert np.isfinite(law[0]).all()
    assert distance(law, EXACT_PARTIAL) > 0.08


@pytest.mark.parametrize(("model", "noise"), [(full_model, 0.05), (diagonal_model, 1.0)])
def test_matched_is_exact_for_an_operator(model, noise):
    y = np.array([1.2, -0.7])
    r = guidance.Linear(lambda x: x @ jnp.asarray(OPERATOR.T, jnp.float32), jnp.asarray(y, jnp.float32)[None], noise)
    conditioned_model = guidance.condition(model, r, "matched")
    exact, _ = conditioned(DATA, OPERATOR, y, np.full(2, noise))
    assert distance(DATA, exact) > 0.3
    assert distance(normal_law(conditioned_model, 3), exact) < 0.03


def test_matched_needs_as_many_iterations_as_there_are_observations():
    y = np.array([1.2, -0.7])
    r = guidance.Linear(lambda x: x @ jnp.asarray(OPERATOR.T, jnp.float32), jnp.asarray(y, jnp.float32)[None], 0.05)
    exact, _ = conditioned(DATA, OPERATOR, y, np.full(2, 0.05))
    models = (guidance.condition(diagonal_model, r, "matched", iterations=iterations) for iterations in (1, 2))
    one, two = (distance(normal_law(model, 3), exact) for model in models)
    assert two < 0.03
    assert one > 2 * two


def test_renoised_is_exact_for_denoising():
    """Noise of one of the schedule's levels: the chain begins there, at what was observed."""
    noise = float(np.exp(np.float64(SCHEDULE.log_nsr[60]))) * (1 - 1e-5)
    y = np.array([0.9, -0.8, 0.4])
    r = Normal(jnp.asarray(y, jnp.float32)[None], jnp.full((1, 3), noise, jnp.float32))
    exact, _ = conditioned(DATA, np.eye(3), y, np.full(3, noise))
    errors = {
        how: distance(normal_law(guidance.condition(full_model, r, how), 3), exact)
        for how in ("renoised", "denoised", "constant")
    }
    assert errors["renoised"] < 0.03
    assert errors["denoised"] < 0.03
    assert errors["constant"] > 0.06


def test_denoised_is_exact_for_independent_coordinates():
    schedule = schedules.geometric(40, beta_1=1e-4)
    r = Normal(jnp.array([[0.7, -1.0, NAN]]), jnp.array([[0.0, 0.5, INF]]))
    mean, covariance = normal_law(guidance.condition(standard_model(schedule), r, "denoised"), 3)
    np.testing.assert_allclose(mean, [0.7, -1 / 1.5, 0], atol=2e-3)
    np.testing.assert_allclose(covariance, np.diag([0, 0.5 / 1.5, 1]), atol=2e-3)


EVIDENCE = {
    "law": Normal(jnp.full((1, 3), NAN), jnp.full((1, 3), INF)),
    "function": lambda x: 0.0 * x.sum(-1),
    "Linear": guidance.Linear(lambda x: x[:, :2], jnp.zeros((1, 2)), 1e12),
}
TAKES = {
    "constant": ("law", "function"),
    "annealed": ("law", "function"),
    "renoised": ("law",),
    "denoised": ("law",),
    "guided": ("law", "function"),
    "matched": ("law", "Linear"),
}


def test_nothing_observed_changes_nothing():
    x, t = jax.random.normal(KEY, (4, 3)), jnp.array([1, 2, 40, T])
    ways = [(how, kind) for how, kinds in TAKES.items() for kind in kinds]

    @jax.jit
    def laws(x, t):
        models = [guidance.condition(diagonal_model, EVIDENCE[kind], how) for how, kind in ways]
        return [model.reverse(x, t) for model in (diagonal_model, *models)]

    model, *others = laws(x, t)
    for way, law in zip(ways, others, strict=True):
        assert {leaf.dtype for leaf in jax.tree.leaves(law)} == {jnp.dtype("float32")}
        for a, b in ((model.mean, law.mean), (model.variance, law.variance)):
            np.testing.assert_allclose(b, a, rtol=1e-3, atol=2e-5, err_msg=str(way))


# --- What is exact: bits ---


BITS = Binomial(schedules.erase(20, beta_1=0.01))


def independent_bits(rates):
    """The exact model of independent bits."""
    logits = jnp.asarray(np.log(rates) - np.log1p(-rates), jnp.float32)
    return Model(BITS, lambda x, t: Bernoulli(logits + BITS.marginal(x, t).logits))


RATES = np.array([0.1, 0.4, 0.5, 0.7, 0.95])


def test_the_bits_of_the_model_are_the_data():
    np.testing.assert_allclose(bits_law(independent_bits(RATES)), string_law(np.log(RATES / (1 - RATES))), atol=1e-4)


@pytest.mark.parametrize("logits", [[INF, -1.5, 0.0, 2.0, -INF], [0.7, 0.7, -0.7, 0.7, -0.7]])
def test_denoised_is_exact_for_independent_bits(logits):
    r = Bernoulli(jnp.asarray([logits], jnp.float32))
    expected = string_law(np.log(RATES / (1 - RATES)) + logits)
    errors = {
        how: np.abs(bits_law(guidance.condition(independent_bits(RATES), r, how)) - expected).max()
        for how in ("denoised", "constant")
    }
    assert errors["denoised"] < 2e-4
    assert errors["constant"] > 0.01


def test_renoised_is_exact_for_bits_seen_through_equal_flips():
    rate = 0.5 * float(BITS.schedule.sigma2[7]) * (1 - 1e-5)
    size = np.log1p(-rate) - np.log(rate)
    logits = size * np.array([1, 1, -1, -1, 1])
    renoised = guidance.condition(
        independent_bits(RATES), Bernoulli(jnp.asarray(logits, jnp.float32)[None]), "renoised"
    )
    np.testing.assert_allclose(bits_law(renoised), string_law(np.log(RATES / (1 - RATES)) + logits), atol=2e-4)


def test_annealed_is_exact_where_the_model_is_flat():
    """Fair coins: all strings alike beforehand."""
    logits = [INF, -1.5, 0.0, 2.0, -INF]
    r = Bernoulli(jnp.asarray([logits], jnp.float32))
    coins = independent_bits(np.full(5, 0.5))
    np.testing.assert_allclose(bits_law(guidance.condition(coins, r, "annealed")), string_law(logits), atol=2e-4)
    constant = bits_law(guidance.condition(coins, r, "constant"))
    assert np.abs(constant - string_law(logits)).max() > 0.01


def test_no_bits_observed_change_nothing():
    x, t = jnp.asarray(STRINGS[5:9], jnp.float32), jnp.array([1, 2, 10, 20])
    model = independent_bits(RATES)
    kinds = {"law": Bernoulli(jnp.zeros((1, 5))), "function": lambda x: 0.0 * x.sum(-1)}
    ways = [(how, kind) for how, taken in TAKES.items() for kind in taken if kind in kinds and how != "matched"]

    @jax.jit
    def laws(x, t):
        models = [guidance.condition(model, kinds[kind], how) for how, kind in ways]
        return [m.reverse(x, t).logits for m in (model, *models)]

    expected, *others = laws(x, t)
    assert len(others) == 8
    for way, logits in zip(ways, others, strict=True):
        np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3, err_msg=str(way))


# --- multiply ---


def test_multiplying_with_the_exponential_of_a_sum_is_exact():
    """log r linear: a normal and bits are tilted with no error; enumerated, and by the density."""
    s = jnp.array([0.5, -2.0, 1.0, 0.0, 3.0])
    x, t = jnp.asarray(STRINGS, jnp.float32), jnp.full(32, 9, jnp.int32)
    model = independent_bits(RATES)
    tilted = guidance.multiply(model, lambda x: x @ s)
    p, q = (np.asarray(law.logits, float) for law in jax.jit(lambda: [m.reverse(x, t) for m in (model, tilted)])())
    before, after = (np.array([string_law(row) for row in logits]) for logits in (p, q))
    joint = before * np.exp(STRINGS @ np.asarray(s, float))
    np.testing.assert_allclose(after, joint / joint.sum(1, keepdims=True), rtol=1e-3)
    x, t = jax.random.normal(KEY, (4, 3)), jnp.array([1, 3, 30, T])
    tilted = guidance.multiply(full_model, lambda x: x @ s[:3])
    p, q = jax.jit(lambda: [m.reverse(x, t) for m in (full_model, tilted)])()
    covariance = np.asarray(p.scale_tril) @ np.asarray(p.scale_tril).mT
    np.testing.assert_allclose(q.mean, p.mean + covariance @ s[:3], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(q.scale_tril, p.scale_tril, rtol=1e-6)


def test_multiplying_with_a_law_weighs_each_coordinate_of_each_step():
    """Three coordinates: unseen, known, and seen through noise; for bits, log-odds are added."""
    logits = np.array([INF, -1.0, 0.0, 2.0, -INF])
    bits, r = jnp.asarray(STRINGS[:4], jnp.float32), Bernoulli(jnp.asarray(logits, jnp.float32)[None])
    x, t = jax.random.normal(KEY, (4, 3)), jnp.array([1, 3, 10, 20])
    model = independent_bits(RATES)

    @jax.jit
    def laws():
        pairs = ((diagonal_model, PARTIAL, x), (model, r, bits))
        return [(m.reverse(x, t), guidance.multiply(m, r).reverse(x, t)) for m, r, x in pairs]

    (p, q), (before, after) = laws()
    mean, variance = np.asarray(p.mean, float), np.asarray(p.variance, float)
    gain = variance[:, 2] / (variance[:, 2] + 0.2)
    expected = np.stack([mean[:, 0], np.full(4, 0.9), mean[:, 2] + gain * (-0.8 - mean[:, 2])], 1)
    np.testing.assert_allclose(q.mean, expected, rtol=1e-5, atol=1e-6)
    expected = np.stack([variance[:, 0], np.zeros(4), gain * 0.2], 1)
    np.testing.assert_allclose(q.variance, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(after.logits, np.asarray(before.logits, float) + logits, rtol=1e-5, atol=1e-5)


def test_a_function_of_the_time_is_told_that_of_x():
    """t - 1 of each example: r of x_{t-1}. Arguments with a default are not the time."""
    x, t = jax.random.normal(KEY, (4, 3)), jnp.array([1, 2, 10, 20])
    model, bits = independent_bits(RATES), jnp.asarray(STRINGS[:4], jnp.float32)

    @jax.jit
    def laws():
        functions = (lambda x, t: t * x.sum(-1), lambda x: 2 * x.sum(-1), lambda x, c=2: c * x.sum(-1))
        tilted = [guidance.multiply(diagonal_model, f).reverse(x, t) for f in functions]
        of_bits = guidance.multiply(model, functions[0]).reverse(bits, t)
        return diagonal_model.reverse(x, t), tilted, model.reverse(bits, t), of_bits

    p, (q, one, two), before, after = laws()
    np.testing.assert_allclose(q.mean - p.mean, p.variance * (t - 1)[:, None], rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(one.mean, two.mean)
    expected = jnp.broadcast_to(before.logits + (t - 1)[:, None], (4, 5))
    np.testing.assert_allclose(after.logits, expected, rtol=1e-4, atol=1e-4)


def test_multiplied_chains_are_tilted_at_every_step():
    """The law of the chain that the paper's recipe makes, from each step's Gaussian in float64."""
    schedule = schedules.geometric(6, beta_1=0.05)
    r = Normal(jnp.array([[0.8]]), jnp.array([[0.5]]))
    model = standard_model(schedule)
    law = normal_law(guidance.condition(model, r, "constant"), 1)
    mean, variance = 0.0, 1.0
    for t in range(6, 0, -1):
        beta = np.float64(schedule.beta[t])
        gain = beta / (beta + 0.5)
        keep = (1 - gain) * np.sqrt(1 - beta)
        mean, variance = keep * mean + gain * 0.8, keep**2 * variance + (1 - gain) * beta
    np.testing.assert_allclose(law[0], [mean], rtol=1e-4)
    np.testing.assert_allclose(law[1], [[variance]], rtol=1e-4)


# --- The linear solver of "matched" ---


@pytest.mark.parametrize("kind", ["covariance", "nearly symmetric", "singular", "nothing observed"])
@pytest.mark.parametrize("iterations", [2, 6, 9])
def test_the_residual_is_the_least_of_the_krylov_space(kind, iterations):
    """Against least squares in float64, eigenvalues over three decades, and more iterations than dimensions."""
    rng = np.random.default_rng(0)
    dim, batch = 6, 3
    axes = np.linalg.qr(rng.standard_normal((batch, dim, dim)))[0]
    values = np.geomspace(1e-3, 1, dim) * (np.arange(dim) > 1 if kind == "singular" else 1)
    matrix = axes @ (values[:, None] * axes.mT)
    if kind == "nearly symmetric":
        matrix = matrix + 3e-4 * rng.standard_normal(matrix.shape)
    b = rng.standard_normal((batch, dim)) * (kind != "nothing observed")
    b = (matrix @ b[..., None])[..., 0] if kind == "singular" else b
    matvec = jnp.asarray(matrix, jnp.float32)
    solve = jax.jit(
        lambda b: guidance._minimal_residual(
            lambda u: (matvec * u.reshape(batch, 1, dim)).sum(-1).reshape(u.shape), b, iterations
        )
    )
    flat, image = (np.asarray(solve(jnp.asarray(b, jnp.float32).reshape(batch, *s)), float) for s in ((6,), (2, 3)))
    np.testing.assert_allclose(image.reshape(batch, dim), flat, rtol=1e-4, atol=1e-3)
    for i in range(batch):
        krylov = np.linalg.qr(np.stack([np.linalg.matrix_power(matrix[i], k) @ b[i] for k in range(dim)], 1))[0]
        krylov = krylov[:, :iterations]
        best = b[i] - matrix[i] @ krylov @ np.linalg.lstsq(matrix[i] @ krylov, b[i], rcond=1e-9)[0]
        ours = b[i] - matrix[i] @ flat[i]
        assert np.linalg.norm(ours) <= np.linalg.norm(best) * 1.01 + 3e-4 * np.linalg.norm(b[i])


# --- guide: twists and tilts ---


@pytest.mark.parametrize("how", ["denoised", "matched"])
def test_the_twist_of_normal_data_is_the_likelihood(how):
    """log h_t(x_t) = log N(y; E[x_0 | x_t], Cov[x_0 | x_t] + noise), float64."""
    x, t = jax.random.normal(KEY, (3, 3)), jnp.array([5, 40, T])
    y, noise = np.array([0.9, -0.8]), np.array([0.1, 0.2])
    r = Normal(jnp.array([[NAN, *y]], jnp.float32), jnp.array([[INF, *noise]], jnp.float32))
    step = jax.jit(guidance.guide(full_model, r, how))(x, t)
    assert step.log_twist.shape == (3,)
    assert step.log_twist.dtype == jnp.float32
    for i in range(3):
        nu, alpha = np.exp(np.float64(SCHEDULE.log_nsr[t[i]])), np.float64(SCHEDULE.alpha_bar[t[i]])
        gain = COVARIANCE @ np.linalg.inv(COVARIANCE + nu * np.eye(3))
        mean = MEAN + gain @ (np.asarray(x[i], float) / np.sqrt(alpha) - MEAN)
        covariance = COVARIANCE - gain @ COVARIANCE
        law = scipy.stats.multivariate_normal(mean[1:], covariance[1:, 1:] + np.diag(noise))
        np.testing.assert_allclose(step.log_twist[i], law.logpdf(y), rtol=2e-3, atol=2e-3)


def test_the_twist_of_an_operator_is_the_likelihood_up_to_a_constant():
    """log N(y; A E[x_0 | x_t], A Cov[x_0 | x_t] A^T + noise), float64, less that of another x_t at the same t."""
    x, t = jax.random.normal(KEY, (3, 3)), 40
    y, noise = np.array([0.9, -0.8]), 0.1
    r = guidance.Linear(lambda x: x @ jnp.asarray(OPERATOR.T, jnp.float32), jnp.asarray(y[None], jnp.float32), noise)
    found = jax.jit(guidance.guide(full_model, r, "matched"))(x, jnp.full(3, t, jnp.int32)).log_twist
    nu, alpha = np.exp(np.float64(SCHEDULE.log_nsr[t])), np.float64(SCHEDULE.alpha_bar[t])
    gain = COVARIANCE @ np.linalg.inv(COVARIANCE + nu * np.eye(3))
    means = MEAN + (np.asarray(x, float) / np.sqrt(alpha) - MEAN) @ gain.T
    total = OPERATOR @ (COVARIANCE - gain @ COVARIANCE) @ OPERATOR.T + noise * np.eye(2)
    exact = np.array([scipy.stats.multivariate_normal(OPERATOR @ m, total).logpdf(y) for m in means])
    assert np.ptp(exact) > 1
    np.testing.assert_allclose(found - found[0], exact - exact[0], rtol=2e-3, atol=2e-3)


def test_annealed_twists_are_of_x_t_and_tilts_of_the_step_before():
    """Evidence as a law is widened by the noise of its time; as a function, it has the power alpha_bar."""
    slope, y, noise = np.array([1.0, -0.5]), 0.7, 0.3
    x, t = jax.random.normal(KEY, (3, 2)), np.array([5, 40, 70])
    law, function = Normal(jnp.full((1, 2), y), noise), lambda x: x @ jnp.asarray(slope, jnp.float32)

    @jax.jit
    def run():
        return [guidance.guide(standard_model(SCHEDULE), r, "annealed")(x, jnp.asarray(t)) for r in (law, function)]

    of_law, of_function = run()
    alpha_bar, before = (np.asarray(SCHEDULE.alpha_bar, np.float64)[i][:, None] for i in (t, t - 1))
    seen = scipy.stats.norm(np.asarray(x), np.sqrt(1 - alpha_bar + alpha_bar * noise))
    np.testing.assert_allclose(of_law.log_twist, seen.logpdf(np.sqrt(alpha_bar) * y).sum(1), rtol=1e-4)
    np.testing.assert_allclose(of_function.log_twist, alpha_bar[:, 0] * (x @ slope), rtol=1e-4, atol=1e-6)
    moved = np.asarray(of_function.posterior.mean - of_function.model.mean)
    np.testing.assert_allclose(moved, of_function.model.variance * before * slope, rtol=1e-3, atol=1e-6)


def test_guided_evidence_is_seen_through_no_less_than_unit_data_leave():
    """The variance of a law of x_0 is at least sigma_t^2: the larger of the two, or of full laws their sum."""
    x, t, y, noise = jax.random.normal(KEY, (2, 2)), 40, 0.7, 0.3
    tril = np.array([[0.2, 0.0], [0.1, 0.3]])
    r = Normal(jnp.full((1, 2), y), noise)
    laws = [lambda x, t: Normal(0.5 * x, jnp.array([0.01, 2.0])), lambda x, t: FullNormal(0.5 * x, jnp.asarray(tril))]

    @jax.jit
    def run():
        return [
            guidance.guide(Model(PROCESS, law), r, "guided")(x, jnp.full(2, t, jnp.int32)).log_twist for law in laws
        ]

    sigma2 = np.float64(SCHEDULE.sigma2[t])
    assert 0.01 < sigma2 < 2
    wide = np.diag([sigma2, 2.0]), tril @ tril.T + sigma2 * np.eye(2)
    for found, covariance in zip(run(), wide, strict=True):
        exact = [
            scipy.stats.multivariate_normal(0.5 * m, covariance + noise * np.eye(2)).logpdf([y, y])
            for m in np.asarray(x, float)
        ]
        np.testing.assert_allclose(found, exact, rtol=1e-4)


@pytest.mark.parametrize("how", ["denoised", "guided"])
def test_the_twist_of_bits_is_the_likelihood(how):
    model, x = independent_bits(RATES), jnp.asarray(STRINGS, jnp.float32)
    logits = np.array([INF, -1.0, 0.0, 2.0, -3.0])
    r = Bernoulli(jnp.asarray(logits, jnp.float32)[None])
    guide = jax.jit(guidance.guide(model, r, how))
    for t in (2, 10, 20):
        lost = np.float64(BITS.schedule.sigma2[t])
        seen = np.where(STRINGS[:, None] == STRINGS[None], 1 - lost / 2, lost / 2).prod(-1)  # [x_0, x_t]
        joint = string_law(np.log(RATES / (1 - RATES)))[:, None] * seen
        likelihood = np.where(logits == 0, 1, expit(np.where(STRINGS == 1, logits, -logits))).prod(1)
        exact = np.log(likelihood @ joint / joint.sum(0))
        np.testing.assert_allclose(guide(x, jnp.full(32, t, jnp.int32)).log_twist, exact, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("model", "r"),
    [
        (full_model, Normal(jnp.array([[0.5, NAN, -0.3]]), jnp.array([[0.2, INF, 1.0]]))),
        (diagonal_model, lambda x: jax.nn.log_sigmoid(3 * (x[:, 0] - x[:, 1])) - 0.1 * (x**2).sum(-1)),
    ],
    ids=["law", "function"],
)
def test_guided_steps_are_tilted_by_the_gradient_of_the_twist(model, r):
    """Compare the slope of the guessed log h_t, through the network, with finite differences."""
    guide = jax.jit(guidance.guide(model, r, "guided"))
    x, t = jax.random.normal(KEY, (4, 3)), jnp.array([30, 40, 50, 60])
    step = guide(x, t)
    moved = np.asarray(step.posterior.mean - step.model.mean, float)
    numeric = np.zeros((4, 3))
    for i in range(3):
        h = 0.02 * jnp.eye(3)[i]
        numeric[:, i] = np.asarray(guide(x + h, t).log_twist - guide(x - h, t).log_twist, float) / 0.04
    if model is full_model:
        covariance = np.asarray(step.model.scale_tril @ step.model.scale_tril.mT, float)
        expected = np.einsum("bij,bj->bi", covariance, numeric)
    else:
        expected = np.asarray(step.model.variance, float) * numeric
    assert np.abs(expected).max() > 0.02
    np.testing.assert_allclose(moved, expected, rtol=0.03, atol=5e-4)
    np.testing.assert_allclose(step.posterior.variance, step.model.variance, rtol=1e-5)


def test_guided_is_exact_for_the_exponential_of_a_sum():
    """log h_t of standard normal data is sqrt(alpha_bar_t) s . x_t, and a constant: its slope is one step late."""
    s, schedule = np.array([1.0, -0.5]), schedules.geometric(100, beta_1=1e-4)
    model = guidance.condition(standard_model(schedule), lambda x: x @ jnp.asarray(s, jnp.float32), "guided")
    mean, covariance = normal_law(model, 2)
    expected, beta, alpha_bar = np.zeros(2), *(np.asarray(a, np.float64) for a in (schedule.beta, schedule.alpha_bar))
    for t in range(100, 1, -1):
        expected = np.sqrt(1 - beta[t]) * expected + beta[t] * np.sqrt(alpha_bar[t]) * s
    # The last step is the product with r itself.
    expected = np.sqrt(1 - beta[1]) * expected + beta[1] * s
    np.testing.assert_allclose(mean, expected, rtol=1e-3)
    np.testing.assert_allclose(expected, s, rtol=0.1)
    np.testing.assert_allclose(covariance, np.eye(2), atol=1e-3)


@pytest.mark.parametrize("r", [PARTIAL, lambda x: -(x**2).sum(-1)], ids=["law", "function"])
def test_guided_is_finite_where_x_0_is_certain(r):
    """Var[x_0 | x_t] is zero, and its root has no gradient."""
    model = Model(PROCESS, lambda x, t: Normal(0.9 * x, 0.0 * x))
    x, t = jax.random.normal(KEY, (3, 3)), jnp.array([1, 40, T])
    step = jax.jit(guidance.guide(model, r, "guided"))(x, t)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(step))


def test_the_last_step_is_the_product_whatever_comes_before():
    x, t = jax.random.normal(KEY, (4, 3)), jnp.array([1, 1, 2, 2])
    hows = ("annealed", "denoised", "guided", "matched")

    @jax.jit
    def steps(x, t):
        return [guidance.guide(diagonal_model, PARTIAL, how)(x, t).posterior for how in hows]

    product = diagonal_model.reverse(x, t).product(PARTIAL)[0]
    for step in steps(x, t):
        for a, b in ((step.mean, product.mean), (step.variance, product.variance)):
            np.testing.assert_allclose(a[:2], b[:2], rtol=1e-5, atol=1e-6)
        assert np.abs(np.asarray(step.mean - product.mean)[2:]).max() > 1e-3


def test_log_likelihood_of_each_kind():
    x, y = jnp.array([[0.5, -1.0, 2.0]] * 2), np.array([0.3, 0.1])
    linear = guidance.Linear(lambda x: x @ jnp.asarray(OPERATOR.T, jnp.float32), jnp.asarray([y] * 2, jnp.float32), 0.3)
    expected = scipy.stats.norm.logpdf(y, OPERATOR @ np.array([0.5, -1.0, 2.0]), np.sqrt(0.3)).sum()
    np.testing.assert_allclose(guidance.log_likelihood(linear, x), [expected] * 2, rtol=1e-5)
    law = Normal(jnp.array([[0.0, NAN, 1.0]]), jnp.array([[0.5, INF, 2.0]]))
    expected = scipy.stats.norm.logpdf([0.0, 1.0], [0.5, 2.0], np.sqrt([0.5, 2.0])).sum()
    np.testing.assert_allclose(guidance.log_likelihood(law, x), [expected] * 2, rtol=1e-5)
    np.testing.assert_array_equal(guidance.log_likelihood(lambda x: x[:, 0], x), x[:, 0])
    r = Bernoulli(jnp.array([[1.0, -2.0, 0.0]]))
    expected = np.log(expit(1.0)) + np.log(expit(2.0))
    np.testing.assert_allclose(guidance.log_likelihood(r, jnp.array([[1.0, 0.0, 1.0]])), [expected], rtol=1e-5)


# --- What is refused ---


@pytest.mark.parametrize("how", TAKES)
@pytest.mark.parametrize("kind", EVIDENCE)
@pytest.mark.parametrize("make", [guidance.condition, guidance.guide])
def test_wrong_combinations_are_refused(how, kind, make):
    if kind in TAKES[how]:
        if make is guidance.condition or how != "renoised":
            make(full_model, EVIDENCE[kind], how)
            return
        words = "no weights"
    else:
        words = f"'{how}' takes evidence that is a .*, got a {kind}"
    with pytest.raises(ValueError, match=words) as error:
        make(full_model, EVIDENCE[kind], how)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["iterations", "points"])
def test_numbers_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}: must be at least 1, got 0"):
        guidance.condition(full_model, PARTIAL, "guided", **{name: 0})


def test_other_names_are_refused():
    with pytest.raises(ValueError, match=r"must be one of constant, .*, got 'exact'"):
        guidance.condition(full_model, PARTIAL, "exact")


@pytest.mark.parametrize(
    "r", [Bernoulli(jnp.zeros((1, 5))), PARTIAL, EVIDENCE["Linear"]], ids=["bits", "law", "Linear"]
)
def test_matched_is_for_the_gaussian_process(r):
    with pytest.raises(ValueError, match="'matched' is for the Gaussian process"):
        guidance.condition(independent_bits(RATES), r, "matched")


# --- One sampler, and all that JAX does to functions ---


def test_the_same_sampler_draws_them():
    n = 10_000
    model = guidance.condition(diagonal_model, PARTIAL, "matched", iterations=2)
    x = jax.jit(lambda key: sampling.sample(key, model, n, (3,)))(KEY)
    assert x.shape == (n, 3)
    assert x.dtype == jnp.float32
    np.testing.assert_allclose(x[:, 1], 0.9, atol=1e-3)
    mean, covariance = EXACT_PARTIAL
    sd = np.sqrt(np.diag(covariance))[[0, 2]]
    # Monte Carlo, and the grid of times.
    assert (np.abs(np.asarray(x.mean(0)) - mean)[[0, 2]] < 5 * sd / np.sqrt(n) + 0.01).all()
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=6 * sd.max() ** 2 / np.sqrt(n) + 0.01)


def test_the_same_sampler_draws_bits():
    n = 20_000
    logits = np.array([INF, -1.5, 0.0, 2.0, -INF])
    r = Bernoulli(jnp.asarray(logits, jnp.float32)[None])
    model = guidance.condition(independent_bits(RATES), r, "denoised")
    x = np.asarray(jax.jit(lambda key: sampling.sample(key, model, n, (5,)))(KEY))
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x[:, [0, 4]], [[1, 0]] * n)
    rate = expit(np.log(RATES / (1 - RATES)) + logits)
    assert (np.abs(x.mean(0) - rate) <= 5 * np.sqrt(rate * (1 - rate) / n)).all()


def test_one_trace_serves_all_evidence_and_a_map_over_it():
    traces = []
    schedule = schedules.geometric(10)

    def draw(y, variance, key):
        traces.append(1)
        r = Normal(y, variance)
        return sampling.sample(key, guidance.condition(standard_model(schedule), r, "denoised"), 8, (3,))

    jitted = jax.jit(draw)
    y = jnp.asarray([[[0.3, 1.0, NAN]], [[NAN, -1.0, 2.0]]])
    variance = jnp.where(jnp.isnan(y), INF, jnp.asarray([0.0, 0.4, 0.4]))
    alone = [jitted(*one, KEY) for one in zip(y, variance, strict=True)]
    assert len(traces) == 1
    together = jax.jit(jax.vmap(draw, (0, 0, None)))(y, variance, KEY)
    np.testing.assert_allclose(together, jnp.stack(alone), rtol=1e-4, atol=1e-4)
    assert bool(jnp.isfinite(together).all())
    np.testing.assert_allclose(alone[0][:, 0], 0.3, rtol=1e-5)


@pytest.mark.parametrize("how", ["denoised", "matched"])
def test_samples_are_differentiable_in_what_was_observed(how):
    schedule = schedules.geometric(6, beta_1=1e-2)

    def value(y):
        r = Normal(y[None], jnp.array([[0.5, 0.1, INF]]))
        model = guidance.condition(standard_model(schedule), r, how, iterations=2)
        return sampling.sample(KEY, model, 16, (3,)).mean(0) @ jnp.array([1.0, 2.0, 3.0])

    y = jnp.array([0.4, -0.7, 0.0])
    value, gradient = jax.jit(value), jax.jit(jax.grad(value))(y)
    assert bool(jnp.isfinite(gradient).all())
    for i in range(3):
        h = 0.05 * jnp.eye(3)[i]
        np.testing.assert_allclose(gradient[i], (value(y + h) - value(y - h)) / 0.1, rtol=1e-2, atol=1e-3)
    assert gradient[1] > 1
    assert gradient[2] == 0


@pytest.mark.parametrize("how", ["renoised", "guided", "matched"])
def test_images_are_conditioned_as_vectors_are(how):
    process = Gaussian(schedules.geometric(12))
    y, variance = jnp.asarray([0.3, NAN, 1.0, -0.5]), jnp.asarray([0.0, INF, 0.2, 0.2])

    def network(x, t):
        """Test correlated pixels."""
        f = -0.3 * process.schedule.alpha_bar[t][:, None] * jnp.tanh(x.reshape(len(x), 4)[:, ::-1])
        return jnp.concatenate([f.reshape(x.shape), jnp.full(x.shape, -0.1)], -1)

    laws = []
    for shape in ((4,), (2, 2, 1)):
        r = Normal(y.reshape(1, *shape), variance.reshape(1, *shape))
        x, t = jax.random.normal(KEY, (3, 4)).reshape(3, *shape), jnp.array([1, 6, 12])
        laws.append(jax.jit(guidance.condition(predictions.gaussian(process, network), r, how).reverse)(x, t))
    for a, b in zip(*map(jax.tree.leaves, laws), strict=True):
        assert b.shape == (3, 2, 2, 1)
        np.testing.assert_allclose(b.reshape(3, 4), a, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_timesteps", [1, 1000])
def test_few_and_many_steps(num_timesteps):
    schedule = schedules.geometric(num_timesteps, beta_1=1e-4)
    r = Normal(jnp.array([[0.3, NAN, 1.0]]), jnp.array([[0.0, INF, 0.2]]))
    x, t = jax.random.normal(KEY, (3, 3)), jnp.asarray([1, (num_timesteps + 1) // 2, num_timesteps], jnp.int32)

    @jax.jit
    def laws(x, t):
        return [guidance.condition(standard_model(schedule), r, how).reverse(x, t) for how in TAKES]

    for how, p in zip(TAKES, laws(x, t), strict=True):
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(p)), how
        assert bool((p.variance >= 0).all())
        np.testing.assert_allclose(p.mean[0, 0], 0.3, atol=1e-5)


def test_guided_chains_on_a_curve_do_not_run_away():
    """Full covariance, sharp evidence: the law of x_0 given x_t is far narrower than the data's."""
    schedule = schedules.geometric(60, beta_1=1e-5)
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    points = jnp.asarray(np.stack([np.cos(angle), 0.3 * np.sin(angle)], axis=1), jnp.float32)
    model = forward_edge(optimal.finite_points(Gaussian(schedule), points, jnp.full(60, -np.log(60.0))))
    r = Normal.known(jnp.array([[0.5, 0.0]]), jnp.array([True, False]))
    chain = guidance.condition(model, r, "guided")
    x = jax.jit(lambda key: sampling.sample(key, chain, 500, (2,)))(jax.random.key(0))
    assert (np.abs(np.asarray(x)) < 3).all()


def test_linear_evidence_is_refused_by_multiply():
    r = guidance.Linear(lambda x: x, jnp.zeros((1, 2)), 1.0)
    with pytest.raises(ValueError, match="Linear"):
        guidance.multiply(full_model, r)

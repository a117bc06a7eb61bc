"""Divergences, entropies and log-probabilities in float32 against exact arithmetic, over the range of parameters."""

from decimal import Decimal, getcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, xlogy

from dpm_jax import (
    Bernoulli,
    Binomial,
    FullNormal,
    Gaussian,
    Model,
    Normal,
    bound,
    forward_edge,
    predictions,
    schedules,
)
from dpm_jax.numerics.small_differences import expm1_minus_x, x_minus_log1p

KEY = jax.random.key(0)
getcontext().prec = 50


def exactly(function, *arrays):
    """function of each row of float32 arrays in exact arithmetic, float64."""
    rows = zip(*(np.asarray(a, np.float32).tolist() for a in arrays), strict=True)
    return np.array([float(function(*map(Decimal, row))) for row in rows])


def relative_error(found, exact):
    return (np.abs(np.asarray(found, np.float64) - exact) / np.abs(exact)).max()


def column(values):
    return jnp.asarray(values, jnp.float32)[:, None]


# Differences from 1e-7 to 80, of either sign.
DIFFERENCES = np.concatenate([10.0 ** np.arange(-7, 1.5, 0.5), [0.99, 1.01, 2.0, 80.0]])


def test_differences_that_cancel():
    x = np.concatenate([10.0 ** np.arange(-18, 0, 0.5), np.linspace(0.1, 1, 20)])
    both = np.concatenate([x, -x]).astype(np.float32)
    assert relative_error(expm1_minus_x(jnp.asarray(both)), exactly(lambda d: d.exp() - 1 - d, both)) < 4e-7
    above = both[both >= -0.5]
    assert relative_error(x_minus_log1p(jnp.asarray(above)), exactly(lambda d: d - (1 + d).ln(), above)) < 4e-7


def test_kl_of_bits_over_all_logits():
    def exact(a, b):
        return sum(((-s * b).exp() + 1).ln() / ((-s * a).exp() + 1) - ((-s * a).exp() + 1).ln() / ((-s * a).exp() + 1)
                   for s in (1, -1))  # fmt: skip

    a, b = np.meshgrid(np.linspace(-40, 40, 33), np.concatenate([DIFFERENCES, -DIFFERENCES]))
    a, b = np.float32(a).ravel(), np.float32(a + b).ravel()
    inside = (np.abs(b) <= 40) & (a != b)
    a, b = a[inside], b[inside]
    found = Bernoulli(column(a)).kl(Bernoulli(column(b)))
    assert relative_error(found, exactly(exact, a, b)) < 1e-6
    np.testing.assert_array_equal(Bernoulli(column(a)).kl(Bernoulli(column(a))), 0)


def test_slopes_of_the_kl_of_bits_over_all_logits():
    """In the logit a of the first law p(1) p(0) (a - b), in that of the second the difference of the rates."""

    def rate(a):
        return 1 / ((-a).exp() + 1)

    a, b = np.meshgrid(np.linspace(-30, 30, 13), np.concatenate([DIFFERENCES, -DIFFERENCES]))
    a, b = np.float32(a).ravel(), np.float32(a + b).ravel()
    inside = (np.abs(b) <= 30) & (a != b)
    a, b = a[inside], b[inside]
    slopes_of = jax.jit(jax.vmap(jax.grad(lambda a, b: Bernoulli(a).kl(Bernoulli(b)), (0, 1))))
    slopes = slopes_of(a, b)
    assert relative_error(slopes[0], exactly(lambda a, b: rate(a) * rate(-a) * (a - b), a, b)) < 1e-6
    assert relative_error(slopes[1], exactly(lambda a, b: rate(b) - rate(a), a, b)) < 2e-6
    np.testing.assert_array_equal(slopes_of(a, a), 0)


def test_posteriors_of_bits_mixed_over_all_logits():
    """Against 50 digits, for laws of x_0 of all logits, at the edges of a chain and within it."""
    process = Binomial(schedules.erase(1000, beta_1=1e-5))
    logits = np.float32(np.linspace(-70, 70, 29))
    for t in (1, 2, 10, 500, 999, 1000):
        flips = Decimal(float(process.schedule.beta[t])) / 2
        # Of alpha_bar_{t-1} itself float32 keeps too little where it is nearly 1.
        nsr = Decimal(float(process.schedule.log_nsr[t - 1])).exp() if t > 1 else Decimal(0)

        def exact(logit, sign, flips=flips, nsr=nsr):
            stays, known = 1 - flips, (2 + nsr) / (2 + 2 * nsr)
            joint = {}
            for x_0 in (1, -1):
                chances = {x: (stays if x == sign else 1 - stays) * (known if x == x_0 else 1 - known) for x in (1, -1)}
                for x in chances:
                    joint[x_0, x] = chances[x] / sum(chances.values()) / ((-x_0 * logit).exp() + 1)
            return ((joint[1, 1] + joint[-1, 1]) / (joint[1, -1] + joint[-1, -1])).ln()

        for bit, sign in ((1.0, Decimal(1)), (0.0, Decimal(-1))):
            x_t, times = jnp.full((len(logits), 1), bit), jnp.full(len(logits), t)
            found = process.posterior(Bernoulli(column(logits)), x_t, times).logits
            wanted = np.asarray(exactly(lambda logit, sign=sign: exact(logit, sign), logits), np.float64)
            error = np.abs(np.asarray(found, np.float64)[:, 0] - wanted)
            assert (error < 1e-6 * (2 + np.abs(wanted))).all()


def test_entropy_and_log_probability_of_bits_over_all_logits():
    logits = np.linspace(-40, 40, 161)

    def entropy(a):
        return sum(((-s * a).exp() + 1).ln() / ((-s * a).exp() + 1) for s in (1, -1))

    p = Bernoulli(column(logits))
    assert relative_error(p.entropy(), exactly(entropy, logits)) < 1e-6
    for x, s in ((1.0, 1), (0.0, -1)):
        found = p.log_prob(jnp.full_like(p.logits, x))
        assert relative_error(found, exactly(lambda a, s=s: -((-s * a).exp() + 1).ln(), logits)) < 1e-6


@pytest.mark.parametrize("full", [False, True])
def test_kl_of_normals_over_all_ratios_and_differences(full):
    ratios = np.concatenate([1 + DIFFERENCES[:-1], 1 / (1 + DIFFERENCES[:-1]), 10.0 ** np.arange(-12, 13, 2)])
    grid = np.meshgrid(ratios, [0.0, 1e-6, 0.1, 30.0], [1e-12, 0.7, 1e6], indexing="ij")
    ratio, difference, p = (a.ravel() for a in grid)
    scale = np.sqrt(p).astype(np.float32)
    q, p, mean = (a.astype(np.float32) for a in (ratio * p, p, difference * scale))
    law = FullNormal(column(mean), column(scale)[..., None]) if full else Normal(column(mean), column(p))
    found = np.asarray(Normal(jnp.zeros_like(column(q)), column(q)).kl(law), np.float64)

    def exact(q, s, m, p):
        variance = s * s if full else p
        return ((m * m + q) / variance - 1 - (q / variance).ln()) / 2

    expected = exactly(exact, q, scale, mean, p)
    # The square of a factor's diagonal is rounded, which a ratio near 1 shows.
    rounding = full * (2e-7 * np.minimum(np.abs(ratio - 1), 1) + 1e-15)
    assert (np.abs(found - expected) <= 1e-6 * expected + rounding).all()


def test_entropy_and_log_probability_of_normals():
    variance, z = (a.ravel() for a in np.meshgrid(10.0 ** np.arange(-24, 25, 4), [0.0, 1e-3, 1.0, 30.0]))
    x = np.float32(z * np.sqrt(variance))
    p = Normal(jnp.zeros_like(column(x)), column(variance))
    log_2pi = Decimal("1.8378770664093454835606594728112352797")
    found = p.entropy()
    assert relative_error(found, exactly(lambda v: (log_2pi + 1 + v.ln()) / 2, variance)) < 1e-6
    exact = exactly(lambda v, x: -(x * x / v + v.ln() + log_2pi) / 2, variance, x)
    largest = np.abs(np.stack([z**2, np.log(variance), np.full_like(z, 1.84)])).max(0)
    assert (np.abs(np.asarray(p.log_prob(column(x))) - exact) < 1e-6 * largest).all()


# --- Whole chains, in which the errors of thousands of steps add up ---


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("T", "beta_1"), [(1000, 3e-7), (4000, 1e-10), (4000, 1e-12)])
def test_kl_terms_of_fine_chains_of_reals(T, beta_1, full):
    """One example a step: sums of the KL terms of all steps, at the x_t that float32 has."""
    process = Gaussian(schedules.geometric(T, beta_1=beta_1))
    schedule, t = process.schedule, np.arange(2, T + 1)
    rng = np.random.default_rng(0)
    x_0 = jnp.asarray(rng.standard_normal((T - 1, 1)), jnp.float32)
    x_t = process.marginal(x_0, jnp.asarray(t)).sample(KEY)
    c = np.float32(0.3)
    outputs = jnp.broadcast_to(jnp.asarray([0.0, c]), (T - 1, 2))
    model = (predictions.full_gaussian if full else predictions.gaussian)(process, lambda x_t, t: outputs)
    q = process.posterior(x_0, x_t, jnp.asarray(t))
    ours = np.asarray(q.kl(model.reverse(x_t, jnp.asarray(t))), np.float64).sum()
    log_nsr, step = (np.asarray(a, np.float64)[t] for a in (schedule.log_nsr, schedule.log_nsr_step))
    alpha_bar, sigma2, gain = expit(-log_nsr), expit(log_nsr), -np.expm1(-step)
    known, weight2 = expit(log_nsr - step) * gain, expit(step - log_nsr) * gain**2
    guess = np.sqrt(alpha_bar) * np.asarray(x_t, np.float64)[:, 0]
    w = known + weight2 * sigma2 * np.exp(c)
    exact = (
        0.5 * (weight2 * (np.asarray(x_0, np.float64)[:, 0] - guess) ** 2 / w + known / w - 1 - np.log(known / w)).sum()
    )
    assert abs(ours / exact - 1) < 3e-5


def test_bound_of_a_chain_that_float32_can_hardly_hold():
    """N(0, I) in 2 dimensions and its exact reverse: K is E log p but for sampling noise, where it was low by 15."""
    x_0 = jnp.asarray(np.random.RandomState(0).randn(1024, 2), jnp.float32)
    process = Gaussian(schedules.geometric(4000, beta_1=1e-12))
    alpha_bar, sigma2 = (values[:, None] for values in (process.schedule.alpha_bar, process.schedule.sigma2))
    model = forward_edge(Model(process, lambda x_t, t: Normal(jnp.sqrt(alpha_bar[t]) * x_t, sigma2[t])))
    k = np.asarray(jax.jit(lambda key: bound.evaluate(key, model, x_0).k)(KEY), np.float64)
    null = np.asarray(process.null_log_prob(x_0), np.float64)
    gap = null - k
    assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(len(gap)) + 1e-3


@pytest.mark.parametrize("T", [1000, 4000])
@pytest.mark.parametrize("rate", [0.2, 0.01])
def test_kl_terms_of_fine_chains_of_bits(T, rate):
    """The expected sum over all steps, by enumeration of x_0 and x_t: each was too high by 1e-8, and K too low."""
    process = Binomial(schedules.erase(T, beta_1=1e-5))
    schedule, t = process.schedule, np.arange(2, T + 1)
    log_nsr, step = (np.asarray(a, np.float64)[t] for a in (schedule.log_nsr, schedule.log_nsr_step))
    # The last step erases everything: what was left before it is in the step before.
    sigma2, before = expit(log_nsr), expit(np.asarray(schedule.log_nsr, np.float64)[t - 1])
    beta = sigma2 * -np.expm1(-step)

    def keeps(rate, same):
        """Probability that a bit stays, or not, where it is replaced by a fair coin at this rate."""
        return np.where(same, 1 - rate / 2, rate / 2)

    def posterior(x_0, x_t):
        one, zero = (keeps(beta, x_t == x) * keeps(before, x_0 == x) for x in (1, 0))
        return one / (one + zero), zero / (one + zero)

    ours = exact = 0.0
    for x_t in (0, 1):
        joint = [(rate if x_0 else 1 - rate) * keeps(sigma2, x_t == x_0) for x_0 in (0, 1)]
        outputs = np.log(joint[1]) - np.log(joint[0])
        m = expit(outputs)
        p = [m * a + (1 - m) * b for a, b in zip(posterior(1, x_t), posterior(0, x_t), strict=True)]
        at_t = jnp.full((T - 1, 1), float(x_t))
        step_32 = process.posterior(Bernoulli(column(outputs)), at_t, jnp.asarray(t))
        for x_0 in (0, 1):
            q = posterior(x_0, x_t)
            exact += (joint[x_0] * sum(xlogy(a, a / b) for a, b in zip(q, p, strict=True))).sum()
            q_32 = process.posterior(jnp.full((T - 1, 1), float(x_0)), at_t, jnp.asarray(t))
            ours += (joint[x_0] * np.asarray(q_32.kl(step_32), np.float64)).sum()
    assert abs(ours - exact) < 3e-8

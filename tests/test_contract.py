"""The laws and the processes of the package, and those of an example, keep the contract; float32 against formulas."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, log_expit

from dpm_jax import Bernoulli, Binomial, FullNormal, Gaussian, Normal, schedules
from examples import masked
from tests import contract

BITS = contract.finite((0.0, 1.0))
NUMBERS = np.random.default_rng(0)


def random(*shape):
    return jnp.asarray(NUMBERS.standard_normal(shape), jnp.float32)


# --- Distributions ---


def normal(batch, event):
    shape = (*batch, *event)
    return Normal(random(*shape), jnp.exp(0.5 * random(*shape)), offset=random(*shape), event_ndim=len(event))


def full_normal(batch, dim):
    tril = jnp.tril(0.4 * random(*batch, dim, dim)) + jnp.eye(dim)
    return FullNormal(random(*batch, dim), tril, offset=random(*batch, dim))


def bernoulli(batch, event):
    return Bernoulli(2 * random(*batch, *event), event_ndim=len(event))


def of_reals(law, x, log_volume):
    """log p [N, *batch] and the entropy of `Normal` and `FullNormal`, float64."""
    axes = tuple(range(-len(law.event_shape), 0))
    residual = x - np.asarray(law.origin, np.float64) - np.asarray(law.offset, np.float64)
    if isinstance(law, FullNormal):
        tril = np.asarray(law.scale_tril, np.float64)
        z = np.linalg.solve(tril, np.moveaxis(residual, 0, -1))
        log_scale = np.log(np.diagonal(tril, axis1=-2, axis2=-1)).sum(-1)
        squares, dim = (np.moveaxis(z, -1, 0) ** 2).sum(-1), tril.shape[-1]
    else:
        variance = np.asarray(law.variance, np.float64)
        squares, log_scale = (residual**2 / variance).sum(axes), 0.5 * np.log(variance).sum(axes)
        dim = np.prod(law.event_shape)
    rest = log_scale + 0.5 * dim * np.log(2 * np.pi)
    return -0.5 * squares - rest, rest + 0.5 * dim


def of_bits(law, x, log_volume):
    axes = tuple(range(-len(law.event_shape), 0))
    logits = np.asarray(law.logits, np.float64)
    log_p = log_expit(np.where(x == 1, logits, -logits)).sum(axes)
    return log_p, -(expit(logits) * log_expit(logits) + expit(-logits) * log_expit(-logits)).sum(axes)


LAWS = {
    "normal": (lambda: normal((3,), (2,)), contract.reals, lambda: normal((3,), (2,)), of_reals),
    "normal-image": (lambda: normal((2,), (1, 2, 1)), contract.reals, lambda: normal((2,), (1, 2, 1)), of_reals),
    "normal-two-batch-axes": (lambda: normal((2, 2), (1,)), contract.reals, lambda: normal((2, 2), (1,)), of_reals),
    "normal-without-batch": (lambda: normal((), (2,)), contract.reals, lambda: normal((), (2,)), of_reals),
    "full": (lambda: full_normal((3,), 2), contract.reals, lambda: normal((3,), (2,)), of_reals),
    "full-two-batch-axes": (lambda: full_normal((2, 2), 2), contract.reals, lambda: normal((2, 2), (2,)), of_reals),
    "bits": (lambda: bernoulli((3,), (4,)), BITS, lambda: bernoulli((3,), (4,)), of_bits),
    "bits-image": (lambda: bernoulli((2,), (2, 2, 1)), BITS, lambda: bernoulli((2,), (2, 2, 1)), of_bits),
    "bits-two-batch-axes": (lambda: bernoulli((2, 2), (3,)), BITS, lambda: bernoulli((2, 2), (3,)), of_bits),
}


@pytest.mark.parametrize("name", LAWS)
def test_laws_keep_the_contract(name):
    make, support, make_evidence, formulas = LAWS[name]
    law, other = make(), make()
    slope = 0.5 * random(*law.batch_shape, *law.event_shape)
    found = contract.check_distribution(law, other, support, evidence=make_evidence(), slope=slope)
    for p, q, facts in zip((law, other), (other, law), found, strict=True):
        log_p, entropy = formulas(p, facts.x, facts.log_volume)
        log_q, _ = formulas(q, facts.x, facts.log_volume)
        np.testing.assert_allclose(facts.log_p, log_p, rtol=1e-5, atol=2e-4)
        np.testing.assert_allclose(facts.log_q, log_q, rtol=1e-5, atol=2e-4)
        np.testing.assert_allclose(facts.entropy, entropy, rtol=2e-6, atol=2e-6)
        # Of the float64 densities: a support of 41 points a coordinate leaves nothing.
        weight = np.exp(log_p + facts.log_volume)
        np.testing.assert_allclose(facts.kl, (weight * (log_p - log_q)).sum(0), rtol=1e-5, atol=1e-5)


def test_masked_tokens_keep_the_contract():
    def tokens():
        return masked.Categorical(jax.nn.log_softmax(random(3, 2, masked.NUM_TOKENS + 1)))

    contract.check_distribution(tokens(), tokens(), contract.finite(np.arange(masked.NUM_TOKENS + 1)))


def test_laws_are_frozen():
    for law in (normal((2,), (2,)), full_normal((2,), 2), bernoulli((2,), (2,))):
        with pytest.raises(AttributeError, match=f"{type(law).__name__} is frozen"):
            law.offset = 0.0


def test_parameters_broadcast_last_axes_to_last_axes():
    """A variance [d] is that of the coordinates, also where the batch has d examples."""
    variance = jnp.array([0.25, 1.0, 4.0])
    p = Normal(jnp.zeros((3, 3)), variance)
    np.testing.assert_array_equal(p.variance, np.tile(variance, (3, 1)))
    entropy = Normal(jnp.zeros((3, 3)), jnp.tile(variance, (3, 1))).entropy()
    np.testing.assert_array_equal(p.entropy(), entropy)
    assert len(set(np.asarray(entropy).tolist())) == 1
    of_examples = Normal(jnp.zeros((3, 3)), variance[:, None])
    np.testing.assert_array_equal(of_examples.variance, np.tile(variance[:, None], (1, 3)))
    np.testing.assert_array_equal(Normal(jnp.zeros((3, 3)), 2.0).variance, np.full((3, 3), 2.0))
    tril = jnp.array([[1.0, 0.0], [0.5, 2.0]])
    full = FullNormal(jnp.zeros((2, 2)), tril)
    np.testing.assert_array_equal(full.scale_tril, np.tile(tril, (2, 1, 1)))
    for shape in ((2,), (4, 1), (1, 3, 3)):
        with pytest.raises(ValueError, match=r"variance: must broadcast to shape \(3, 3\)"):
            Normal(jnp.zeros((3, 3)), jnp.ones(shape))


# --- Processes ---


def gaussian_rows(event):
    x_0 = random(2, *event)
    variance = 0.1 * jnp.exp(0.3 * random(*x_0.shape))
    return x_0, Normal(0.5 * random(*x_0.shape), variance, offset=0.3 * random(*x_0.shape))


def full_rows():
    return random(2, 2), FullNormal(0.5 * random(2, 2), jnp.array([[0.3, 0.0], [0.2, 0.3]]), offset=0.3 * random(2, 2))


def bit_rows(event):
    return (random(3, *event) > 0).astype(jnp.float32), Bernoulli(2 * random(3, *event))


FINE = partial(contract.reals, num=1001)
SQUARE = partial(contract.reals, num=121)


PROCESSES = {
    "gaussian-1": (Gaussian, schedules.geometric(1), schedules.geometric(1, nsr_final=300.0), (1,)),
    "gaussian-2-image": (Gaussian, schedules.geometric(2, beta_1=0.05), schedules.geometric(2), (1, 2, 1)),
    "gaussian-40-full": (Gaussian, schedules.cosine(40), schedules.linear(40), "full"),
    "gaussian-1000": (Gaussian, schedules.geometric(1000), schedules.geometric(1000, beta_1=1e-3), (1,)),
    "gaussian-erased": (Gaussian, schedules.erase(10), schedules.erase(10, beta_1=0.01), (1,)),
    "binomial-1": (Binomial, schedules.erase(1, beta_1=0.9), schedules.erase(1), (3,)),
    "binomial-2-image": (Binomial, schedules.erase(2), schedules.erase(2, beta_1=0.1), (1, 3, 1)),
    "binomial-20": (Binomial, schedules.geometric(20), schedules.cosine(20), (3,)),
    "binomial-1000": (Binomial, schedules.erase(1000), schedules.erase(1000, beta_1=1e-5), (3,)),
}


def gaussian_formulas(schedule, facts):
    """log-probabilities of marginal, forward and posterior, float64; of the levels that float32 has."""
    nu = np.exp(np.asarray(schedule.log_nsr, np.float64))
    step = np.asarray(schedule.log_nsr_step, np.float64)
    alpha_bar, sigma2 = 1 / (1 + nu), np.where(np.isinf(nu), 1.0, 1 / (1 + 1 / np.maximum(nu, 1e-300)))
    beta = sigma2 * -np.expm1(-step)
    t, axes = facts.t, tuple(range(-facts.x_0.ndim + 1, 0))

    def at(values, t):
        return values[t].reshape(-1, *(1,) * (facts.x_0.ndim - 1))

    def log_normal(x, mean, variance):
        return -0.5 * ((x - mean) ** 2 / variance + np.log(2 * np.pi * variance)).sum(axes)

    marginal = log_normal(facts.x_t, np.sqrt(at(alpha_bar, t)) * facts.x_0, at(sigma2, t))
    forward = log_normal(facts.x_t, np.sqrt(1 - at(beta, t)) * facts.y, at(beta, t))
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = 1 / at(sigma2, t - 1) + (1 - at(beta, t)) / at(beta, t)
        from_x_0 = np.sqrt(at(alpha_bar, t - 1)) * facts.x_0 / at(sigma2, t - 1)
        mean = (from_x_0 + np.sqrt(1 - at(beta, t)) * facts.x_t / at(beta, t)) / precision
        posterior = log_normal(facts.y, mean, 1 / precision)
    return marginal, forward, posterior


def binomial_formulas(schedule, facts):
    sigma2, beta = (np.asarray(values, np.float64) for values in (schedule.sigma2, schedule.beta))
    t, axes = facts.t, tuple(range(-facts.x_0.ndim + 1, 0))

    def keeps(rate, one, other):
        rate = rate.reshape(-1, *(1,) * (facts.x_0.ndim - 1))
        return np.where(one == other, 1 - rate / 2, rate / 2)

    end = keeps(sigma2[t], facts.x_0, facts.x_t)
    step, start = keeps(beta[t], facts.y, facts.x_t), keeps(sigma2[t - 1], facts.x_0, facts.y)
    with np.errstate(divide="ignore"):
        return tuple(np.log(values).sum(axes) for values in (end, step, step * start / end))


@pytest.mark.parametrize("name", PROCESSES)
def test_processes_keep_the_contract(name):
    make, schedule, other, event = PROCESSES[name]
    is_gaussian = make is Gaussian
    if event == "full":
        x_0, start = full_rows()
    else:
        x_0, start = (gaussian_rows if is_gaussian else bit_rows)(event)
    support = contract.reals if is_gaussian else BITS
    starts = (FINE if event == (1,) else SQUARE) if is_gaussian else BITS
    facts = contract.check_process(make(schedule), x_0, start, support, starts=starts, twin=make(other), prior_kl=0.02)
    marginal, forward, posterior = (gaussian_formulas if is_gaussian else binomial_formulas)(schedule, facts)
    np.testing.assert_allclose(facts.log_marginal, marginal, rtol=1e-4, atol=1e-3)
    later = facts.t > 1
    for found, expected in ((facts.log_forward, forward), (facts.log_posterior, posterior)):
        near = later & (expected > expected.max(0) - 30)
        np.testing.assert_allclose(np.where(near, found, 0), np.where(near, expected, 0), atol=2e-3)


def test_masking_keeps_the_contract():
    """A process that the package does not know: its chain never leaves the prior, and its states are integers."""
    x_0 = jnp.asarray(NUMBERS.integers(0, masked.NUM_TOKENS, (3, 2)), jnp.int32)
    log_p = jax.nn.log_softmax(random(3, 2, masked.NUM_TOKENS))
    start = masked.Categorical(jnp.pad(log_p, ((0, 0), (0, 0), (0, 1)), constant_values=-jnp.inf))
    process, twin = (masked.Masking(schedules.erase(8, beta_1=rate)) for rate in (0.1, 0.2))
    contract.check_process(process, x_0, start, contract.finite(np.arange(masked.NUM_TOKENS + 1)), twin=twin)

"""The binomial kernel against brute force over all strings of five bits."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpm_jax import binomial, bound, optimal, schedules

KEY = jax.random.key(0)
STRINGS = np.array(list(itertools.product((0.0, 1.0), repeat=5)))
T = 4


def transition(beta: float) -> np.ndarray:
    """q(x_t | x_{t-1}) over all 32 strings, [from, to], from the definition: a bit is kept or drawn anew."""
    same = STRINGS[:, None] == STRINGS[None]
    return np.where(same, 1 - beta / 2, beta / 2).prod(-1)


def chain(schedule) -> list[np.ndarray]:
    """q(x_t | x_0) for t = 0..T, [from, to], by matrix products."""
    laws = [np.eye(32)]
    for t in range(1, schedule.num_timesteps + 1):
        laws.append(laws[-1] @ transition(float(schedule.beta[t])))
    return laws


def probabilities(p: binomial.Bernoulli) -> np.ndarray:
    """The law of whole strings, [B, 32], from independent bits."""
    rate = np.asarray(jax.nn.sigmoid(p.logits), np.float64)
    return np.where(STRINGS[None] == 1, rate[:, None], 1 - rate[:, None]).prod(-1)


def make_schedule():
    return schedules.erase(T, beta_1=0.05, alpha_bar_final=0.1)


@pytest.mark.parametrize("t", range(T + 1))
def test_marginal_is_the_matrix_power(t):
    schedule = make_schedule()
    law = binomial.marginal(schedule, jnp.asarray(STRINGS), jnp.full(32, t, jnp.int32))
    np.testing.assert_allclose(probabilities(law), chain(schedule)[t], atol=1e-6)


@pytest.mark.parametrize("t", range(1, T + 1))
def test_forward_is_the_transition_matrix(t):
    schedule = make_schedule()
    law = binomial.forward(schedule, jnp.asarray(STRINGS), jnp.full(32, t, jnp.int32))
    np.testing.assert_allclose(probabilities(law), transition(float(schedule.beta[t])), atol=1e-6)


@pytest.mark.parametrize("t", range(1, T + 1))
def test_posterior_is_bayes_rule_by_enumeration(t):
    schedule = make_schedule()
    laws = chain(schedule)
    start, end = (a.reshape(-1) for a in np.meshgrid(np.arange(32), np.arange(32), indexing="ij"))
    joint = laws[t - 1][start] * transition(float(schedule.beta[t]))[:, end].T
    expected = joint / joint.sum(1, keepdims=True)
    times = jnp.full(len(start), t, jnp.int32)
    law = binomial.q_posterior(schedule, jnp.asarray(STRINGS[start]), jnp.asarray(STRINGS[end]), times)
    np.testing.assert_allclose(probabilities(law), expected, atol=2e-6)


def test_erase_forgets_everything_at_the_end():
    schedule = schedules.erase(10)
    ones = jnp.ones((1, 3))
    np.testing.assert_array_equal(binomial.marginal(schedule, ones, jnp.array([10])).logits, 0)
    np.testing.assert_array_equal(binomial.forward(schedule, ones, jnp.array([10])).logits, 0)


def test_laws_by_enumeration():
    p = binomial.Bernoulli(jax.random.normal(KEY, (3, 5)))
    q = binomial.Bernoulli(2 * jax.random.normal(jax.random.key(1), (3, 5)))
    pp, qq = probabilities(p), probabilities(q)
    np.testing.assert_allclose(binomial.entropy(p), -(pp * np.log(pp)).sum(1), rtol=1e-5)
    np.testing.assert_allclose(binomial.kl(q, p), (qq * np.log(qq / pp)).sum(1), rtol=1e-5)
    for i, string in enumerate(STRINGS):
        x = jnp.tile(jnp.asarray(string), (3, 1))
        np.testing.assert_allclose(binomial.log_prob(p, x), np.log(pp[:, i]), rtol=1e-5)


def test_sampling_frequencies():
    logits = jnp.array([-2.0, 0.0, 3.0, -jnp.inf, jnp.inf])
    n = 100_000
    x = binomial.sample(KEY, binomial.Bernoulli(jnp.tile(logits, (n, 1))))
    assert x.dtype == jnp.float32
    rate = np.asarray(jax.nn.sigmoid(logits))
    assert (np.abs(np.asarray(x.mean(0)) - rate) <= 4 * np.sqrt(rate * (1 - rate) / n)).all()


def test_kl_gradient_is_finite_and_right_everywhere():
    def kl(b, a):
        return binomial.kl(binomial.Bernoulli(jnp.full((1, 1), a)), binomial.Bernoulli(jnp.full((1, 1), b)))[0]

    for a in (-30.0, -2.0, 0.0, 2.0, 30.0):
        for b in (-30.0, -1.0, 0.0, a, 30.0):
            gradient = jax.jit(jax.grad(kl))(b, a)
            expected = jax.nn.sigmoid(b) - jax.nn.sigmoid(a)
            np.testing.assert_allclose(gradient, expected, atol=2e-6)


@pytest.mark.parametrize("t", [1, 2, 4])
def test_both_reverse_functions_know_fair_coins(t):
    """For fair coins x_0 | x_t is the marginal run backwards, and the reverse step is the forward one."""
    schedule = make_schedule()
    x, times = jnp.asarray(STRINGS), jnp.full(32, t, jnp.int32)
    expected = binomial.forward(schedule, x, times).logits
    p = binomial.perturbation_reverse(schedule, x, times, jnp.zeros((32, 5)))
    np.testing.assert_allclose(p.logits, expected, atol=1e-5)
    p = binomial.denoised_reverse(schedule, x, times, binomial.marginal(schedule, x, times).logits)
    np.testing.assert_allclose(p.logits, expected, atol=1e-5)


@pytest.mark.parametrize("t", [1, 2, 4])
def test_denoised_reverse_mixes_the_posteriors(t):
    schedule = make_schedule()
    x, times = jnp.asarray(STRINGS), jnp.full(32, t, jnp.int32)
    outputs = jax.random.normal(KEY, (32, 5))
    m = np.asarray(jax.nn.sigmoid(outputs), float)
    one, zero = (
        np.asarray(jax.nn.sigmoid(binomial.q_posterior(schedule, jnp.full((32, 5), v), x, times).logits), float)
        for v in (1.0, 0.0)
    )
    rate = jax.nn.sigmoid(binomial.denoised_reverse(schedule, x, times, outputs).logits)
    np.testing.assert_allclose(rate, m * one + (1 - m) * zero, rtol=1e-5)


@pytest.mark.parametrize("edge", ["forward", "decoder"])
def test_bound_and_best_reverse_chain_by_enumeration(edge):
    """K of the optimal factorised chain on three strings, summed over every x_0 and x_t."""
    schedule = make_schedule()
    laws = chain(schedule)
    points = np.array([3, 12, 30])
    weights = np.array([0.5, 0.3, 0.2])
    data = STRINGS[points]

    def exact_bound() -> float:
        total = 0.0
        for t in range(1, T + 1):
            step = transition(float(schedule.beta[t]))
            before, after = laws[t - 1][points], laws[t][points]
            posterior = before[:, :, None] * step[None] / after[:, None, :]  # [data, x_{t-1}, x_t]
            to = weights[:, None] * after
            mixture = (to[:, None, :] * posterior).sum(0) / to.sum(0)
            rate = np.einsum("ij,jt->ti", STRINGS.T, mixture).T  # [bit, x_t]
            reverse = np.where(STRINGS[:, :, None] == 1, rate[None], 1 - rate[None]).prod(1)  # [x_{t-1}, x_t]
            if t == 1 and edge == "forward":
                reverse = step.T  # p(x_0 | x_1) is the forward kernel, symmetric
            with np.errstate(divide="ignore", invalid="ignore"):
                log_ratio = np.where(posterior > 0, np.log(posterior) - np.log(reverse[None]), 0.0)
            kl = (posterior * log_ratio).sum(1)
            total -= (to * kl).sum()
        last = laws[T][points]
        return total - float((weights[:, None] * last * np.log(last * 32)).sum())

    reverse = optimal.finite_bits(schedule, jnp.asarray(data), jnp.log(jnp.asarray(weights)))
    n = 40_000
    index = jax.random.choice(KEY, 3, (n,), p=jnp.asarray(weights))
    result = jax.jit(lambda x: bound.evaluate(jax.random.key(3), binomial, schedule, reverse, x, edge=edge))(
        jnp.asarray(data)[index]
    )
    mean, stderr = bound.mean_and_stderr(result.k)
    assert abs(float(mean) - exact_bound()) < 4 * float(stderr)
    assert float(stderr) < 0.02
    limit = float((weights * np.log(weights)).sum())
    assert exact_bound() < limit


def test_certain_outputs_are_certain():
    schedule = make_schedule()
    x = jnp.asarray(STRINGS)
    for t in range(1, T + 1):
        times = jnp.full(32, t, jnp.int32)
        for value, sign in ((1.0, 1), (0.0, -1)):
            p = binomial.denoised_reverse(schedule, x, times, jnp.full(x.shape, sign * jnp.inf)).logits
            q = binomial.q_posterior(schedule, jnp.full(x.shape, value), x, times).logits
            np.testing.assert_allclose(p, np.clip(q, -80, 80), rtol=1e-4, atol=2e-5)


def test_kl_from_a_certain_law_is_the_surprise():
    schedule = make_schedule()
    x_0, x_1 = jnp.asarray(STRINGS[:16]), jnp.asarray(STRINGS[16:])
    q = binomial.q_posterior(schedule, x_0, x_1, jnp.ones(16, jnp.int32))
    p = binomial.Bernoulli(jax.random.normal(KEY, x_0.shape))
    np.testing.assert_allclose(binomial.kl(q, p), -binomial.log_prob(p, x_0), rtol=1e-5)


def test_best_chain_of_strings_that_share_a_bit_is_finite():
    schedule = make_schedule()
    points = jnp.array([[1.0, 0, 0, 1, 0], [1.0, 1, 0, 1, 1]])
    reverse = optimal.finite_bits(schedule, points, jnp.full(2, -jnp.log(2.0)))
    result = bound.evaluate(KEY, binomial, schedule, reverse, points, edge="decoder")
    assert bool(jnp.isfinite(result.k).all())


def test_forward_edge_replaces_the_last_step_alone():
    schedule = make_schedule()
    x, t = jnp.asarray(STRINGS[:2]), jnp.array([1, 2])
    reverse = binomial.forward_edge(schedule, lambda x, t: binomial.Bernoulli(jnp.full(x.shape, 0.7)))
    p = reverse(x, t)
    np.testing.assert_allclose(p.logits[0], binomial.forward(schedule, x, jnp.array([1, 1])).logits[0])
    np.testing.assert_allclose(p.logits[1], 0.7)

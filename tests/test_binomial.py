"""Bits and the binomial process beyond the contract: certain ones, the best chain; by enumeration of five bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpm_jax import Bernoulli, Binomial, Model, bound, forward_edge, optimal, predictions, schedules
from tests.chains import STRINGS

KEY = jax.random.key(0)
T = 4


def transition(beta: float) -> np.ndarray:
    """q(x_t | x_{t-1}) over all 32 strings, [from, to], from the definition: a bit is kept or a new coin."""
    same = STRINGS[:, None] == STRINGS[None]
    return np.where(same, 1 - beta / 2, beta / 2).prod(-1)


def chain(schedule) -> list[np.ndarray]:
    """q(x_t | x_0) for t = 0..T, [from, to], by matrix products."""
    laws = [np.eye(32)]
    for t in range(1, schedule.num_timesteps + 1):
        laws.append(laws[-1] @ transition(float(schedule.beta[t])))
    return laws


def make_schedule():
    return schedules.erase(T, beta_1=0.05, alpha_bar_final=0.1)


def test_erase_forgets_everything_at_the_end():
    process, ones = Binomial(schedules.erase(10)), jnp.ones((1, 3))
    np.testing.assert_array_equal(process.marginal(ones, jnp.array([10])).logits, 0)
    np.testing.assert_array_equal(process.forward(ones, jnp.array([10])).logits, 0)


def test_sampling_frequencies():
    logits = jnp.array([-2.0, 0.0, 3.0, -jnp.inf, jnp.inf])
    n = 100_000
    x = Bernoulli(jnp.tile(logits, (n, 1))).sample(KEY)
    assert x.dtype == jnp.float32
    rate = np.asarray(jax.nn.sigmoid(logits))
    assert (np.abs(np.asarray(x.mean(0)) - rate) <= 4 * np.sqrt(rate * (1 - rate) / n)).all()


def test_kl_gradient_is_finite_and_right_everywhere():
    def kl(b, a):
        return Bernoulli(a[None, None]).kl(Bernoulli(b[None, None]))[0]

    sizes = jnp.array([-30.0, -2.0, -1.0, 0.0, 2.0, 30.0])
    b, a = (values.ravel() for values in jnp.meshgrid(sizes, sizes))
    gradient = jax.jit(jax.vmap(jax.grad(kl)))(b, a)
    np.testing.assert_allclose(gradient, jax.nn.sigmoid(b) - jax.nn.sigmoid(a), atol=2e-6)


def test_both_predictions_know_fair_coins():
    """For fair coins x_0 | x_t is the marginal run backwards, and the reverse step is the forward one."""
    process = Binomial(make_schedule())
    by_perturbation = predictions.binomial(process, lambda x, t: jnp.zeros_like(x), prediction="perturbation")
    by_x_0 = predictions.binomial(process, lambda x, t: process.marginal(x, t).logits)
    x = jnp.asarray(STRINGS, jnp.float32)
    for t in (1, 2, 4):
        times = jnp.full(32, t, jnp.int32)
        for model in (by_perturbation, by_x_0):
            p = model.reverse(x, times)
            np.testing.assert_allclose(p.logits, process.forward(x, times).logits, atol=1e-5)


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

    model = optimal.finite_bits(Binomial(schedule), jnp.asarray(data), jnp.log(jnp.asarray(weights)))
    n = 40_000
    index = jax.random.choice(KEY, 3, (n,), p=jnp.asarray(weights))
    result = jax.jit(lambda x: bound.evaluate(jax.random.key(3), model, x, edge=edge))(jnp.asarray(data)[index])
    mean, stderr = bound.mean_and_stderr(result.k)
    assert abs(float(mean) - exact_bound()) < 4 * float(stderr)
    assert float(stderr) < 0.02
    limit = float((weights * np.log(weights)).sum())
    assert exact_bound() < limit


def test_words_next_to_impossible_have_finite_logits_and_gradients():
    """At t = 1 the other words of 20 bits differ in 8, and have e^-98 of the probability."""
    process = Binomial(schedules.erase(1000, beta_1=1e-5))
    words = np.tile(np.eye(5), 4)
    model = optimal.finite_bits(process, jnp.asarray(words), jnp.full(5, -jnp.log(5.0)))
    x, t = jnp.asarray(words[:1]), jnp.array([1])
    unchanged = np.log(2 / 1e-5 - 1)
    log_joint = -unchanged * (words != words[:1]).sum(1)[:, None]
    one, zero = (np.log((np.exp(log_joint) * bits).sum(0)) for bits in (words, 1 - words))
    np.testing.assert_allclose(model.denoise(x, t).logits[0], one - zero, rtol=1e-5)
    assert np.isfinite(jax.grad(lambda x: model.denoise(x, t).logits.sum())(x)).all()


def test_certain_outputs_are_certain():
    process, x = Binomial(make_schedule()), jnp.asarray(STRINGS)
    for t in range(1, T + 1):
        times = jnp.full(32, t, jnp.int32)
        for value, sign in ((1.0, 1), (0.0, -1)):
            p = process.posterior(Bernoulli(jnp.full(x.shape, sign * jnp.inf)), x, times).logits
            q = process.posterior(jnp.full(x.shape, value), x, times).logits
            np.testing.assert_allclose(p, np.clip(q, -80, 80), rtol=1e-4, atol=2e-5)


def test_kl_from_a_certain_law_is_the_surprise():
    x_0, x_1 = jnp.asarray(STRINGS[:16]), jnp.asarray(STRINGS[16:])
    q = Binomial(make_schedule()).posterior(x_0, x_1, jnp.ones(16, jnp.int32))
    logits = jax.random.normal(KEY, x_0.shape)
    kl = jax.jit(lambda: q.kl(Bernoulli(logits)))()
    surprise = np.logaddexp(0, np.where(STRINGS[:16] == 1, -1.0, 1.0) * np.asarray(logits, np.float64))
    np.testing.assert_allclose(kl, surprise.sum(1), rtol=1e-5)


def test_kl_to_a_certain_law_is_infinite_unless_both_are_certain_of_the_same():
    logits = np.array([-np.inf, -3.0, 0.0, 3.0, np.inf], np.float32)
    p, q = (jnp.asarray(values.ravel()[:, None]) for values in np.meshgrid(logits, logits, indexing="ij"))
    found = np.asarray(Bernoulli(p).kl(Bernoulli(q))).reshape(5, 5)
    # What is certain of 1 and what is certain of 0 share nothing.
    wanted = np.full((5, 5), np.inf)
    for i, a in enumerate(np.float64(logits)):
        for j, b in enumerate(np.float64(logits)):
            chances = [(1 / (1 + np.exp(-s * a)), 1 / (1 + np.exp(-s * b))) for s in (1, -1)]
            if all(to > 0 or chance == 0 for chance, to in chances):
                wanted[i, j] = sum(chance * np.log(chance / to) for chance, to in chances if chance > 0)
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-7)


def test_null_model_is_independent_bits_at_the_mean_rate():
    """Compare the null model with its formula for batches in which 1/2, 1/4 and all of the bits are 1."""
    process = Binomial(make_schedule())
    found = process.null_log_prob(jnp.array([[1.0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]]))
    np.testing.assert_allclose(found, np.full(3, 4 * np.log(0.5)), rtol=1e-6)
    found = process.null_log_prob(jnp.array([[1.0, 0, 0, 0], [0, 0, 0, 1]]))
    np.testing.assert_allclose(found, np.full(2, np.log(0.25) + 3 * np.log(0.75)), rtol=1e-6)
    np.testing.assert_array_equal(process.null_log_prob(jnp.ones((2, 3))), 0)


def test_best_chain_of_strings_that_share_a_bit_is_finite():
    points = jnp.array([[1.0, 0, 0, 1, 0], [1.0, 1, 0, 1, 1]])
    model = optimal.finite_bits(Binomial(make_schedule()), points, jnp.full(2, -jnp.log(2.0)))
    result = bound.evaluate(KEY, model, points, edge="decoder")
    assert bool(jnp.isfinite(result.k).all())


def test_forward_edge_replaces_the_last_step_alone():
    process = Binomial(make_schedule())
    x, t = jnp.asarray(STRINGS[:2]), jnp.array([1, 2])
    p = forward_edge(Model.from_steps(process, lambda x, t: Bernoulli(jnp.full(x.shape, 0.7)))).reverse(x, t)
    np.testing.assert_allclose(p.logits[0], process.forward(x, jnp.array([1, 1])).logits[0])
    np.testing.assert_allclose(p.logits[1], 0.7)

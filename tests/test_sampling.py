"""Ancestral sampling: the right law, the same samples however they are cut up, and memory."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpm_jax import binomial, gaussian, optimal, posterior, predictions, sampling, schedules
from dpm_jax.data import heartbeat
from tests import chains

KEY = jax.random.key(0)
MEAN = jnp.array([0.3, -0.2])
COVARIANCE = jnp.array([[1.4, 0.5], [0.5, 0.6]])


def normal_chain(T):
    schedule = schedules.geometric(T, beta_1=1e-3)
    return gaussian.forward_edge(schedule, optimal.normal(schedule, MEAN, COVARIANCE))


def test_optimal_chain_samples_the_data():
    n = 50_000
    x = jax.jit(lambda k: sampling.ancestral(k, gaussian, normal_chain(60), n, (2,), 60))(KEY)
    chex.assert_shape(x, (n, 2))
    chex.assert_type(x, jnp.float32)
    sd = np.sqrt(np.diagonal(COVARIANCE))
    assert (np.abs(np.asarray(x.mean(0) - MEAN)) < 5 * sd / np.sqrt(n)).all()
    np.testing.assert_allclose(np.cov(x.T), COVARIANCE, atol=0.04)


@pytest.mark.parametrize("chunk_size", [1, 7, 64, 100, 1000])
def test_chunks_give_the_same_samples(chunk_size):
    reverse = normal_chain(10)
    whole = sampling.ancestral(KEY, gaussian, reverse, 100, (2,), 10)
    cut = sampling.ancestral(KEY, gaussian, reverse, 100, (2,), 10, chunk_size=chunk_size)
    np.testing.assert_allclose(cut, whole, rtol=1e-5, atol=1e-6)


def test_a_larger_batch_begins_with_the_smaller_one():
    reverse = normal_chain(10)
    few = sampling.ancestral(KEY, gaussian, reverse, 5, (2,), 10)
    np.testing.assert_allclose(sampling.ancestral(KEY, gaussian, reverse, 50, (2,), 10)[:5], few, rtol=1e-5, atol=1e-6)


def test_noise_is_independent_between_examples_and_times():
    noise = np.stack([sampling._noise(KEY, gaussian, 0, 64, (3,), t) for t in range(50)])
    assert noise.shape == (50, 64, 3)
    assert len(np.unique(noise)) > 0.99 * noise.size  # float32 normals repeat now and then
    flat = noise.reshape(50, -1)
    assert np.abs(np.corrcoef(flat)[np.triu_indices(50, 1)]).max() < 5 / np.sqrt(flat.shape[1])
    np.testing.assert_array_equal(sampling._noise(KEY, gaussian, 21, 30, (3,), 7), noise[7, 21:51])


@pytest.mark.parametrize(("T", "every"), [(1, 1), (10, 1), (10, 3), (10, 10), (10, 50), (1000, 250)])
def test_trajectory_ends_in_the_same_samples(T, every):
    reverse = normal_chain(T)
    whole = sampling.ancestral(KEY, gaussian, reverse, 20, (2,), T)
    kept = sampling.ancestral_trajectory(KEY, gaussian, reverse, 20, (2,), T, keep_every=every)
    assert list(np.asarray(kept.t)) == sorted({T, *range(0, T, every)}, reverse=True)
    assert kept.x.shape == (len(kept.t), 20, 2)
    np.testing.assert_allclose(kept.x[-1], whole, rtol=1e-4, atol=1e-5)


def test_trajectory_keeps_the_states_of_the_full_one():
    reverse = normal_chain(10)
    full = sampling.ancestral_trajectory(KEY, gaussian, reverse, 4, (2,), 10)
    some = sampling.ancestral_trajectory(KEY, gaussian, reverse, 4, (2,), 10, keep_every=4)
    for t, x in zip(some.t, some.x, strict=True):
        np.testing.assert_allclose(x, full.x[10 - int(t)], rtol=1e-5, atol=1e-6)


def test_keep_every_is_checked():
    with pytest.raises(ValueError, match="keep_every"):
        sampling.ancestral_trajectory(KEY, gaussian, normal_chain(4), 2, (2,), 4, keep_every=0)


def test_optimal_chain_samples_heartbeats_of_every_phase():
    values = heartbeat.sequences(20, 5)
    schedule = schedules.erase(200, beta_1=1e-6)
    reverse = binomial.forward_edge(schedule, optimal.finite_bits(schedule, values, jnp.full(5, -jnp.log(5.0))))
    x = jax.jit(lambda k: sampling.ancestral(k, binomial, reverse, 2000, (20,), 200))(KEY)
    matches = np.asarray((x[:, None] == values).all(-1))
    assert matches.any(1).mean() > 0.95
    # T = 200 loses some to the factorised step; phases are still uniform.
    counts = matches.sum(0)
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 23.5  # chi-square, 4 degrees, 1e-4


def test_memory_does_not_grow_with_the_number_of_steps():
    def temporaries(T):
        schedule = schedules.geometric(T)
        reverse = lambda x, t: predictions.normal_reverse(schedule, x, t, jnp.zeros((len(x), 64)))  # noqa: E731
        compiled = jax.jit(lambda k: sampling.ancestral(k, gaussian, reverse, 64, (32,), T)).lower(KEY).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(2000) <= 1.1 * temporaries(20) + 5 * 4 * 2001


@pytest.mark.parametrize("jump_length", [3, 50])
def test_going_each_stretch_once_is_ancestral_sampling(jump_length):
    schedule = schedules.geometric(10, beta_1=1e-3)
    reverse, _ = chains.normal_chain(schedule, np.asarray(MEAN), np.asarray(COVARIANCE))
    once, expected = jax.jit(
        lambda key: (
            sampling.with_jumps(key, gaussian, schedule, reverse, 20, (2,), jump_length=jump_length, num_repeats=1),
            sampling.ancestral(key, gaussian, reverse, 20, (2,), 10),
        )
    )(KEY)
    np.testing.assert_allclose(once, expected, rtol=1e-4, atol=1e-5)


def test_jumps_keep_the_law_of_an_exact_chain():
    """7 does not divide 30: the first stretch is the short one."""
    n, schedule = 10_000, schedules.geometric(30, beta_1=1e-3)
    reverse, _ = chains.normal_chain(schedule, np.asarray(MEAN), np.asarray(COVARIANCE))
    draw = jax.jit(
        lambda key: sampling.with_jumps(key, gaussian, schedule, reverse, n, (2,), jump_length=7, num_repeats=3)
    )
    x = draw(KEY)
    chex.assert_shape(x, (n, 2))
    chex.assert_type(x, jnp.float32)
    sd = np.sqrt(np.diagonal(COVARIANCE))
    assert (np.abs(np.asarray(x.mean(0) - MEAN)) < 5 * sd / np.sqrt(n) + 0.005).all()
    # The standard error of a covariance of normals is at most sqrt(2 / n) times the product of their scales.
    np.testing.assert_allclose(np.cov(x.T), COVARIANCE, atol=5 * np.sqrt(2 / n) * sd.max() ** 2 + 0.005)
    draw(jax.random.key(1))
    assert draw._cache_size() == 1


def test_jumps_bring_together_what_is_put_in_place_and_what_is_made_around_it():
    """Inpainting by replacement alone hears the known coordinate late; with repetitions it nears the exact law."""
    schedule = schedules.geometric(30, beta_1=1e-3)
    model, _ = chains.normal_chain(schedule, np.asarray(MEAN), np.asarray(COVARIANCE))
    r = gaussian.Normal(jnp.array([[1.8, 0.0]]), jnp.array([[0.0, jnp.inf]]))
    reverse = posterior.condition(gaussian, schedule, model, r, "renoised")
    exact = MEAN[1] + COVARIANCE[0, 1] / COVARIANCE[0, 0] * (1.8 - MEAN[0])

    def error(repeats):
        draw = lambda key: sampling.with_jumps(  # noqa: E731
            key, gaussian, schedule, reverse, 3000, (2,), jump_length=5, num_repeats=repeats
        )
        return abs(float(jax.jit(draw)(KEY)[:, 1].mean() - exact))

    assert error(8) < 0.5 * error(1)


def test_jumps_of_bits_keep_their_law():
    """Independent bits, of which the reverse chain is exact."""
    schedule, rate = schedules.erase(9, beta_1=0.05), np.array([0.1, 0.5, 0.8])
    logits = jnp.asarray(np.log(rate / (1 - rate)), jnp.float32)

    def reverse(x, t):
        return binomial.denoised_reverse(schedule, x, t, logits + binomial.marginal(schedule, x, t).logits)

    n = 5000
    x = jax.jit(
        lambda key: sampling.with_jumps(key, binomial, schedule, reverse, n, (3,), jump_length=4, num_repeats=3)
    )(KEY)
    assert set(np.unique(x)) == {0.0, 1.0}
    assert (np.abs(np.asarray(x.mean(0)) - rate) < 5 * np.sqrt(rate * (1 - rate) / n)).all()


@pytest.mark.parametrize("name", ["jump_length", "num_repeats"])
def test_jumps_are_checked(name):
    options = {"jump_length": 2, "num_repeats": 2, name: 0}
    with pytest.raises(ValueError, match=f"{name}: must be at least 1, got 0"):
        sampling.with_jumps(KEY, gaussian, schedules.geometric(4), normal_chain(4), 2, (2,), **options)

"""Ancestral sampling: the right law, the same samples however they are cut up, and memory."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpm_jax import (
    Bernoulli,
    Binomial,
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
from dpm_jax.data import heartbeat
from tests import chains

KEY = jax.random.key(0)
MEAN = jnp.array([0.3, -0.2])
COVARIANCE = jnp.array([[1.4, 0.5], [0.5, 0.6]])


def normal_chain(T):
    return forward_edge(optimal.normal(Gaussian(schedules.geometric(T, beta_1=1e-3)), MEAN, COVARIANCE))


def plain_chain(T):
    """Steps that take no time to compile."""
    return Model(Gaussian(schedules.geometric(T, beta_1=1e-2)), lambda x, t: Normal(0.7 * x, 0.2))


def test_optimal_chain_samples_the_data():
    n = 50_000
    x = jax.jit(lambda k: sampling.sample(k, normal_chain(60), n, (2,)))(KEY)
    chex.assert_shape(x, (n, 2))
    chex.assert_type(x, jnp.float32)
    sd = np.sqrt(np.diagonal(COVARIANCE))
    assert (np.abs(np.asarray(x.mean(0) - MEAN)) < 5 * sd / np.sqrt(n)).all()
    np.testing.assert_allclose(np.cov(x.T), COVARIANCE, atol=0.04)


def test_samples_do_not_depend_on_chunks_nor_on_which_is_first():
    """Chunks, and first examples, at multiples of 16, which share a key, and between them; and one not known yet."""
    model = plain_chain(3)
    cuts = [(96, 0, 7), (96, 0, 16), (96, 0, 40), (5, 0, None), (48, 32, 16), (48, 37, None), (48, 37, 16), (48, 37, 9)]

    @jax.jit
    def draws(key, late):
        whole = sampling.sample(key, model, 96, (2,))
        parts = [sampling.sample(key, model, num, (2,), first=i, chunk_size=size) for num, i, size in cuts]
        return whole, parts, [sampling.sample(key, model, 48, (2,), first=late, chunk_size=k) for k in (None, 16)]

    whole, parts, traced = draws(KEY, jnp.asarray(43))
    assert len(np.unique(whole)) == 192
    late = [(48, 43, size) for size in (None, 16)]
    for (num, first, size), x in zip([*cuts, *late], [*parts, *traced], strict=True):
        name = f"{num}, {first}, {size}"
        np.testing.assert_allclose(x, whole[first : first + num], rtol=1e-5, atol=1e-6, err_msg=name)


def test_noise_is_independent_between_examples_and_times():
    law, some = Normal(jnp.zeros((64, 3)), 1.0), Normal(jnp.zeros((30, 3)), 1.0)
    noise, part = jax.jit(
        lambda: (
            jax.lax.map(lambda t: sampling._sample(KEY, law, sampling._first(0), t), jnp.arange(50)),
            sampling._sample(KEY, some, sampling._first(21), 7),
        )
    )()
    assert noise.shape == (50, 64, 3)
    assert len(np.unique(noise)) > 0.99 * noise.size  # float32 normals repeat now and then
    flat = noise.reshape(50, -1)
    assert np.abs(np.corrcoef(flat)[np.triu_indices(50, 1)]).max() < 5 / np.sqrt(flat.shape[1])
    np.testing.assert_array_equal(part, noise[7, 21:51])


@pytest.mark.parametrize(("T", "strides"), [(1, (1,)), (10, (1, 4, 50)), (1000, (250,))])
def test_trajectory_ends_in_the_same_samples_and_keeps_the_states_on_the_way(T, strides):
    model = plain_chain(T)
    whole, kept = jax.jit(
        lambda: (
            sampling.sample(KEY, model, 20, (2,)),
            [sampling.trajectory(KEY, model, 20, (2,), keep_every=every) for every in strides],
        )
    )()
    for every, some in zip(strides, kept, strict=True):
        assert list(np.asarray(some.t)) == sorted({T, *range(0, T, every)}, reverse=True)
        assert some.x.shape == (len(some.t), 20, 2)
        np.testing.assert_allclose(some.x[-1], whole, rtol=1e-4, atol=1e-5)
        if strides[0] == 1:
            np.testing.assert_allclose(some.x, kept[0].x[T - some.t], rtol=1e-5, atol=1e-6)


def test_keep_every_is_checked():
    with pytest.raises(ValueError, match="keep_every"):
        sampling.trajectory(KEY, plain_chain(4), 2, (2,), keep_every=0)


def test_optimal_chain_samples_heartbeats_of_every_phase():
    values = heartbeat.sequences(20, 5)
    process = Binomial(schedules.erase(200, beta_1=1e-6))
    model = forward_edge(optimal.finite_bits(process, values, jnp.full(5, -jnp.log(5.0))))
    x = jax.jit(lambda k: sampling.sample(k, model, 2000, (20,)))(KEY)
    matches = np.asarray((x[:, None] == values).all(-1))
    assert matches.any(1).mean() > 0.95
    # T = 200 loses some to the factorised step; phases are still uniform.
    counts = matches.sum(0)
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 23.5  # chi-square, 4 degrees, 1e-4


def test_memory_does_not_grow_with_the_number_of_steps():
    def temporaries(T):
        model = predictions.gaussian(Gaussian(schedules.geometric(T)), lambda x, t: jnp.zeros((len(x), 64)))
        compiled = jax.jit(lambda k: sampling.sample(k, model, 64, (32,))).lower(KEY).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(2000) <= 1.1 * temporaries(20) + 5 * 4 * 2001


def test_going_each_stretch_once_is_ancestral_sampling():
    model = plain_chain(10)
    expected, *once = jax.jit(
        lambda key: (
            sampling.sample(key, model, 20, (2,)),
            *(sampling.with_jumps(key, model, 20, (2,), jump_length=k, num_repeats=1) for k in (3, 50)),
        )
    )(KEY)
    for x in once:
        np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-5)


def test_jumps_keep_the_law_of_an_exact_chain():
    """7 does not divide 30: the first stretch is the short one."""
    n, schedule = 10_000, schedules.geometric(30, beta_1=1e-3)
    model, _ = chains.normal_chain(schedule, np.asarray(MEAN), np.asarray(COVARIANCE))
    draw = jax.jit(lambda key: sampling.with_jumps(key, model, n, (2,), jump_length=7, num_repeats=3))
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
    r = Normal(jnp.array([[1.8, 0.0]]), jnp.array([[0.0, jnp.inf]]))
    conditioned = guidance.condition(model, r, "renoised")
    exact = MEAN[1] + COVARIANCE[0, 1] / COVARIANCE[0, 0] * (1.8 - MEAN[0])

    def draws(key):
        return [
            sampling.with_jumps(key, conditioned, 3000, (2,), jump_length=5, num_repeats=repeats) for repeats in (1, 8)
        ]

    once, often = (abs(float(x[:, 1].mean() - exact)) for x in jax.jit(draws)(KEY))
    assert often < 0.5 * once


def test_jumps_of_bits_keep_their_law():
    """Independent bits, of which the reverse chain is exact."""
    process, rate = Binomial(schedules.erase(9, beta_1=0.05)), np.array([0.1, 0.5, 0.8])
    logits = jnp.asarray(np.log(rate / (1 - rate)), jnp.float32)

    model = Model(process, lambda x, t: Bernoulli(logits + process.marginal(x, t).logits))
    n = 5000
    x = jax.jit(lambda key: sampling.with_jumps(key, model, n, (3,), jump_length=4, num_repeats=3))(KEY)
    assert set(np.unique(x)) == {0.0, 1.0}
    assert (np.abs(np.asarray(x.mean(0)) - rate) < 5 * np.sqrt(rate * (1 - rate) / n)).all()


@pytest.mark.parametrize("name", ["jump_length", "num_repeats"])
def test_jumps_are_checked(name):
    options = {"jump_length": 2, "num_repeats": 2, name: 0}
    with pytest.raises(ValueError, match=f"{name}: must be at least 1, got 0"):
        sampling.with_jumps(KEY, plain_chain(4), 2, (2,), **options)

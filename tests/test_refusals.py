"""Inputs of the functions: data of every dtype give the same results, and invalid inputs are refused by name."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpm_jax import binomial, bound, gaussian, predictions, sampling, schedules
from dpm_jax.gaussian import Normal

KEY = jax.random.key(0)
T = 4
REALS, BITS = schedules.geometric(T), schedules.erase(T)


def normal_reverse(x_t, t):
    return gaussian.mixed(REALS, 0.5 * x_t, jnp.ones_like(x_t), x_t, t)


def bits_reverse(x_t, t):
    return binomial.denoised_reverse(BITS, x_t, t, jnp.full(x_t.shape, -0.7))


MODELS = {"reals": (gaussian, REALS, normal_reverse), "bits": (binomial, BITS, bits_reverse)}


def every_number(model, x_0):
    kernel, schedule, reverse = MODELS[model]
    t = jnp.asarray([1, 2, T], jnp.int32)
    x_t = kernel.q_sample(KEY, schedule, x_0, t)
    return (
        bound.evaluate(KEY, kernel, schedule, reverse, x_0).k,
        bound.estimate(KEY, kernel, schedule, reverse, x_0, edge="decoder").k,
        kernel.null_log_prob(x_0),
        x_t,
        kernel.kl(kernel.q_posterior(schedule, x_0, x_t, t), kernel.forward(schedule, x_0, t)),
        kernel.log_prob(kernel.prior(x_0), x_0),
        kernel.log_overlap(kernel.point(x_0), kernel.marginal(schedule, x_0, t)),
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.int32, bool, np.float16, np.float64, jnp.bfloat16])
@pytest.mark.parametrize("model", MODELS)
def test_data_of_any_type_are_the_same_data(model, dtype):
    values = np.array([[0, 1], [1, 0], [1, 1]])
    if model == "reals" and dtype is not bool:
        values = values * 100
    expected = every_number(model, jnp.asarray(values, jnp.float32))
    for found, standard in zip(every_number(model, jnp.asarray(values.astype(dtype))), expected, strict=True):
        assert found.dtype == jnp.float32
        np.testing.assert_array_equal(found, standard)


@pytest.mark.parametrize("model", MODELS)
def test_data_that_are_no_real_numbers_are_refused(model):
    with pytest.raises(ValueError, match="x_0: must hold real numbers, got complex64"):
        bound.evaluate(KEY, *MODELS[model], jnp.ones((3, 2), jnp.complex64))


@pytest.mark.parametrize("wrong", [-1.0, 0.3, 2.0, np.nan])
def test_bits_that_are_none(wrong):
    x_0 = jnp.asarray([[0.0, 1.0], [1.0, wrong]])
    with pytest.raises(ValueError, match=f"x_0: bits must be 0 or 1, got {wrong:g}"):
        bound.evaluate(KEY, *MODELS["bits"], x_0)
    with pytest.raises(ValueError, match="x_0: bits must be 0 or 1"):
        binomial.null_log_prob(x_0)
    # In a traced program they are not known yet: no number comes out.
    k = jax.jit(lambda x: bound.evaluate(KEY, *MODELS["bits"], x).k)(x_0)
    np.testing.assert_array_equal(np.isnan(k), [False, True])


def laws():
    def narrow(x_t, t):
        return normal_reverse(x_t[:, :1], t)

    def of_coordinates(x_t, t):
        return normal_reverse(x_t, t)._replace(variance=jnp.asarray([0.1, 0.2]))

    def of_bits(x_t, t):
        return bits_reverse(x_t[:, :1], t)

    return [
        (narrow, "law of shape", "reals"),
        (of_coordinates, "parameter of shape", "reals"),
        (of_bits, "law of shape", "bits"),
    ]


@pytest.mark.parametrize(("reverse", "says", "model"), laws())
def test_reverse_steps_of_another_shape(reverse, says, model):
    kernel, schedule, _ = MODELS[model]
    x_0 = jnp.zeros((2, 2))
    calls = (
        lambda: bound.evaluate(KEY, kernel, schedule, reverse, x_0),
        lambda: bound.estimate(KEY, kernel, schedule, reverse, x_0),
        lambda: sampling.ancestral(KEY, kernel, reverse, 2, (2,), T),
        lambda: kernel.forward_edge(schedule, reverse)(x_0, jnp.ones(2, jnp.int32)),
    )
    for call in calls:
        with pytest.raises(ValueError, match=f"reverse: .*{says}"):
            call()


def test_a_scalar_variance_is_that_of_every_coordinate():
    def reverse(x_t, t):
        return Normal(normal_reverse(x_t, t).mean, 0.3)

    def spelled_out(x_t, t):
        return Normal(normal_reverse(x_t, t).mean, jnp.full(x_t.shape, 0.3))

    x_0 = jnp.zeros((2, 2))
    found, expected = (bound.evaluate(KEY, gaussian, REALS, r, x_0).k for r in (reverse, spelled_out))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("t", [-1, T + 1])
def test_times_that_are_not_the_schedules(model, t):
    kernel, schedule, _ = MODELS[model]
    x_0, times = jnp.zeros((2, 2)), jnp.asarray([1, t], jnp.int32)
    with pytest.raises(ValueError, match=f"t: times of this schedule are 0 to {T}, got {t}"):
        kernel.q_sample(KEY, schedule, x_0, times)
    x_t = jax.jit(partial(kernel.q_sample, KEY, schedule))(x_0, times)
    np.testing.assert_array_equal(np.isnan(x_t).all(1), [False, True])


@pytest.mark.parametrize("model", MODELS)
def test_chains_longer_than_the_schedule_sample_nothing(model):
    kernel, _, reverse = MODELS[model]
    assert np.isnan(sampling.ancestral(KEY, kernel, reverse, 2, (2,), T + 1)).all()


@pytest.mark.parametrize("prediction", ["epsilon", "residual"])
def test_predictions_that_say_nothing_where_everything_is_erased(prediction):
    x, t = jnp.ones((2, 2)), jnp.asarray([1, T])
    with pytest.raises(ValueError, match="alpha_bar_T is 0"):
        predictions.normal_reverse(BITS, x, t, jnp.zeros((2, 4)), prediction=prediction)
    assert np.isfinite(predictions.normal_reverse(BITS, x, t, jnp.zeros((2, 4)), prediction="v").mean).all()

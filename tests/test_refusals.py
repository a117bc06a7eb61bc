"""Inputs of the functions: data of every dtype give the same results, and invalid inputs are refused by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpm_jax import Bernoulli, Binomial, Gaussian, Model, Normal, bound, predictions, sampling, schedules

KEY = jax.random.key(0)
T = 4
REALS, BITS = Gaussian(schedules.geometric(T)), Binomial(schedules.erase(T))
MODELS = {
    "reals": Model(REALS, lambda x_t, t: Normal(0.5 * x_t, 1.0)),
    "bits": Model(BITS, lambda x_t, t: Bernoulli(jnp.full(x_t.shape, -0.7))),
}


def every_number(model, x_0):
    t = jnp.asarray([1, 2, T], jnp.int32)
    process, law = model.process, type(model.process.prior((1, 1)))
    x_t = process.marginal(x_0, t).sample(KEY)
    return (
        x_t,
        process.null_log_prob(x_0),
        process.posterior(x_0, x_t, t).kl(process.forward(x_0, t)),
        process.prior(x_0.shape).log_prob(x_0),
        law.point(x_0).product(process.marginal(x_0, t))[1],
        bound.prior_term(process, x_0),
    )


@pytest.mark.parametrize("model", MODELS)
def test_data_of_any_type_are_the_same_data(model):
    """Arrays of jax, and of NumPy, on the host."""
    values = np.array([[0, 1], [1, 0], [1, 1]])
    for scale, dtypes in (1, [bool, np.float64]), (100, [np.uint8, np.int16, np.float16, jnp.bfloat16]):
        numbers = values if model == "bits" else scale * values
        expected = every_number(MODELS[model], jnp.asarray(numbers, jnp.float32))
        for dtype in dtypes:
            data = numbers.astype(dtype)
            for x_0 in (data, jnp.asarray(data)):
                for found, standard in zip(every_number(MODELS[model], x_0), expected, strict=True):
                    assert found.dtype == jnp.float32
                    np.testing.assert_array_equal(found, standard)


def test_a_numpy_array_of_integers_is_data():
    values = np.array([[0, 1], [1, 0], [1, 1]], np.uint8)

    def k(x_0):
        key, model = jax.random.key(1), MODELS["reals"]
        return bound.evaluate(KEY, model, x_0).k, bound.estimate(key, model, x_0, edge="decoder").k

    found, expected = jax.jit(lambda: k(values))(), jax.jit(k)(jnp.asarray(values, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_data_that_are_no_real_numbers_are_refused(model):
    with pytest.raises(ValueError, match="x_0: must hold real numbers, got complex64"):
        bound.estimate(KEY, MODELS[model], jnp.ones((3, 2), jnp.complex64))


@pytest.mark.parametrize("wrong", [-1.0, 0.3, np.nan])
def test_bits_that_are_none(wrong):
    x_0 = jnp.asarray([[0.0, 1.0], [1.0, wrong]])
    with pytest.raises(ValueError, match=f"x_0: bits must be 0 or 1, got {wrong:g}"):
        bound.estimate(KEY, MODELS["bits"], x_0)
    with pytest.raises(ValueError, match="x_0: bits must be 0 or 1"):
        BITS.null_log_prob(x_0)


def test_bits_that_are_none_in_a_traced_program():
    """They are not known yet: no number comes out."""
    x_0 = jnp.asarray([[0.0, 1.0], [1.0, -1.0], [0.3, 1.0], [1.0, 2.0], [np.nan, 0.0]])
    k = jax.jit(lambda x: bound.evaluate(KEY, MODELS["bits"], x).k)(x_0)
    np.testing.assert_array_equal(np.isnan(k), [False, True, True, True, True])


def test_a_scalar_variance_is_that_of_every_coordinate():
    x = jnp.ones((2, 2))
    found, expected = Normal(x, 0.3), Normal(x, jnp.full(x.shape, 0.3))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match=r"variance: must broadcast to shape \(2, 2\), got shape \(3,\)"):
        Normal(x, jnp.ones(3))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("t", [-2, T + 1])
def test_times_that_are_not_the_schedules(model, t):
    process = MODELS[model].process
    x_0, times = jnp.zeros((2, 2)), jnp.asarray([1, t], jnp.int32)
    calls = {
        "marginal": lambda t: process.marginal(x_0, t),
        "forward": lambda t: process.forward(x_0, t),
        "posterior": lambda t: process.posterior(x_0, x_0, t),
        "reverse": lambda t: MODELS[model].reverse(x_0, t),
    }
    for call in calls.values():
        with pytest.raises(ValueError, match=f"t: times of this schedule are 0 to {T}, got -?[0-9]"):
            call(times)
    laws = jax.jit(lambda t: [call(t).mean for call in calls.values()])(times)
    for name, mean in zip(calls, laws, strict=True):
        np.testing.assert_array_equal(np.isnan(mean).all(1), [False, True], err_msg=name)


@pytest.mark.parametrize("model", MODELS)
def test_no_step_ends_below_0(model):
    """t = 0 is of the schedule, and a marginal's; but no step's."""
    x = jnp.zeros((2, 2))
    with pytest.raises(ValueError, match=f"t: times of this schedule are 0 to {T}, got -1"):
        MODELS[model].reverse(x, jnp.asarray([1, 0]))
    mean = jax.jit(lambda t: MODELS[model].reverse(x, t).mean)(jnp.asarray([1, 0]))
    np.testing.assert_array_equal(np.isnan(mean).all(1), [False, True])


@pytest.mark.parametrize("prediction", ["epsilon", "residual"])
def test_predictions_that_say_nothing_where_everything_is_erased(prediction):
    x, t = jnp.ones((2, 2)), jnp.asarray([1, T])
    erased = Gaussian(schedules.erase(T))

    def reverse(prediction):
        return predictions.gaussian(erased, lambda x, t: jnp.zeros((2, 4)), prediction=prediction).reverse(x, t)

    with pytest.raises(ValueError, match="alpha_bar_T is 0"):
        reverse(prediction)
    assert np.isfinite(reverse("v").mean).all()


def test_samples_to_begin_at_have_the_shape_of_the_samples():
    for draw in (sampling.sample, sampling.trajectory):
        with pytest.raises(ValueError, match=r"start: must have shape \(3, 2\), or be a law, got shape \(4, 2\)"):
            draw(KEY, MODELS["reals"], 3, (2,), start=jnp.zeros((4, 2)))

"""log(1 + e^x), and its derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from dpm_jax.numerics.softplus import softplus

X = np.concatenate([np.linspace(-100, 100, 4001), [-1e-30, 0.0, 1e-30, 3e38, -3e38]]).astype(np.float32)


@pytest.mark.parametrize("compiled", [False, True])
def test_is_numpy_in_float64_to_rounding(compiled: bool) -> None:
    function = jax.jit(softplus) if compiled else softplus
    # Below 1e-37 float32 has few digits, or none.
    np.testing.assert_allclose(function(X), np.logaddexp(0, X.astype(np.float64)), rtol=3e-6, atol=1e-37)


def test_derivatives_are_those_of_the_logistic_function() -> None:
    x = X.astype(np.float64)
    first, second = jax.vmap(jax.grad(softplus)), jax.vmap(jax.grad(jax.grad(softplus)))
    np.testing.assert_allclose(first(X), expit(x), rtol=3e-6, atol=1e-37)
    np.testing.assert_allclose(second(X), expit(x) * expit(-x), rtol=1e-5, atol=1e-6)
    _, forwards = jax.jvp(softplus, (X,), (np.full_like(X, 2),))
    np.testing.assert_allclose(forwards, 2 * expit(x), rtol=3e-6, atol=1e-37)


def test_is_finite_as_far_as_it_can_be() -> None:
    np.testing.assert_array_equal(softplus(jnp.array([-jnp.inf, jnp.inf])), [0, np.inf])
    np.testing.assert_array_equal(jax.vmap(jax.grad(softplus))(jnp.array([-jnp.inf, jnp.inf])), [0, 1])
    assert np.isnan(softplus(jnp.nan))

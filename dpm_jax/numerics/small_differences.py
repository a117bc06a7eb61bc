"""Functions that are small because two terms cancel, computed without the cancellation.

KL divergences of nearly equal laws are sums of these. Each is x^2 / 2 near zero, where float32 would lose
the difference of its two terms altogether at x = 1e-7; here the relative error is a few units of rounding.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

__all__ = ["expm1_minus_x", "x_minus_log1p"]


def _polynomial(x: Array, coefficients: list[float]) -> Array:
    """Sum of coefficients[i] x^i, by Horner's rule."""
    total = jnp.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total = total * x + coefficient
    return total


def expm1_minus_x(x: Array) -> Array:
    """Return e^x - 1 - x for x in [-1, 1], of x's shape, by its Taylor series."""
    coefficients = [0.5]
    for n in range(3, 12):
        coefficients.append(coefficients[-1] / n)
    return x**2 * _polynomial(x, coefficients)


def x_minus_log1p(x: Array) -> Array:
    """Return x - log(1 + x) for x in [-1/2, 1], of x's shape.

    With s = x / (2 + x), log(1 + x) = 2 atanh(s), so that x - log(1 + x) = s (x - 2 (s^2 / 3 + s^4 / 5 + ...)).
    """
    s = x / (2 + x)
    series = _polynomial(s**2, [1 / (2 * k + 3) for k in range(8)])
    return s * (x - 2 * s**2 * series)

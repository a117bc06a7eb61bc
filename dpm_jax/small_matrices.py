"""Algebra of very small matrices, unrolled over their entries.

For d = 2 the batched library routines call LAPACK once an example, which costs more than the
network whose step it is. Compilation grows with d^3: for d up to about 6.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

__all__ = ["cholesky", "gram", "matrix", "solve_lower"]


def matrix(rows: list[list[Array]]) -> Array:
    """[..., d, d] from its entries, each [...]."""
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def cholesky(covariance: Array) -> Array:
    """Lower Cholesky factor of [..., d, d], positive semi-definite: what is certain has zeros."""
    dim = covariance.shape[-1]
    low: list[list[Array]] = [[jnp.zeros_like(covariance[..., 0, 0])] * dim for _ in range(dim)]
    for i in range(dim):
        for j in range(i + 1):
            rest = covariance[..., i, j] - sum((low[i][k] * low[j][k] for k in range(j)), 0.0)
            # The unselected branches must stay finite, or gradients would be NaN: hence the inner `where`.
            if i == j:
                positive = rest > 0
                low[i][i] = jnp.where(positive, jnp.sqrt(jnp.where(positive, rest, 1.0)), 0.0)
            else:
                positive = low[j][j] > 0
                low[i][j] = jnp.where(positive, rest / jnp.where(positive, low[j][j], 1.0), 0.0)
    return matrix(low)


def gram(tril: Array) -> Array:
    """tril tril^T of [..., d, d], lower triangular."""

    def entry(i: int, j: int) -> Array:
        return sum((tril[..., i, k] * tril[..., j, k] for k in range(min(i, j) + 1)), jnp.zeros((), tril.dtype))

    dim = tril.shape[-1]
    return matrix([[entry(i, j) for j in range(dim)] for i in range(dim)])


def solve_lower(tril: Array, b: Array) -> Array:
    """tril^{-1} b for tril [..., d, d] and b [..., d], by forward substitution."""
    x: list[Array] = []
    for i in range(b.shape[-1]):
        x.append((b[..., i] - sum((tril[..., i, k] * x[k] for k in range(i)), 0.0)) / tril[..., i, i])
    return jnp.stack(x, axis=-1)

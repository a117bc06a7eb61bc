"""Algebra of small matrices without library routines, for use inside scans.

On a CPU, LAPACK called in a batch from inside `lax.scan` or `lax.map` waits for threads that wait for it. And for d = 2
such calls, one an example, cost more than the network whose step it is: up to d = 6 entries are
unrolled. Their compilation grows with d^3, so that larger matrices are worked through by a loop over columns.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
from jax import Array

__all__ = ["cholesky", "diagonal", "gram", "matrix", "principal_axes", "solve_lower"]

_MAX_UNROLLED = 6
# Over all pairs of axes; for d = 2 the first is exact.
_SWEEPS = 6


def matrix(rows: list[list[Array]]) -> Array:
    """Return [..., d, d] made of its entries, each [...]."""
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def diagonal(values: Array) -> Array:
    """Return the diagonal matrices, [..., d, d], with these entries, [..., d]."""
    identity = jnp.eye(values.shape[-1], dtype=values.dtype)
    return values[..., None] * identity.reshape(*(1,) * (values.ndim - 1), *identity.shape)


def cholesky(covariance: Array) -> Array:
    """Return the lower Cholesky factor of [..., d, d], positive semi-definite: what is certain has zeros."""
    dim = covariance.shape[-1]
    if dim > _MAX_UNROLLED:
        return _cholesky_by_columns(covariance)
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


def _cholesky_by_columns(covariance: Array) -> Array:
    index = jnp.arange(covariance.shape[-1])

    def column(rest: Array, j: Array) -> tuple[Array, Array]:
        pivot = rest[..., j, j]
        positive = pivot > 0
        scale = jnp.where(positive, jax.lax.rsqrt(jnp.where(positive, pivot, 1.0)), 0.0)
        new = jnp.where(index >= j, rest[..., :, j] * scale[..., None], 0.0)
        return rest - new[..., :, None] * new[..., None, :], new

    return jnp.moveaxis(jax.lax.scan(column, covariance, index)[1], 0, -1)


def gram(tril: Array) -> Array:
    """Return tril tril^T of [..., d, d], lower triangular."""
    dim = tril.shape[-1]
    if dim > _MAX_UNROLLED:
        return jnp.matmul(tril, tril.mT, precision="highest")

    def entry(i: int, j: int) -> Array:
        return sum((tril[..., i, k] * tril[..., j, k] for k in range(min(i, j) + 1)), jnp.zeros((), tril.dtype))

    return matrix([[entry(i, j) for j in range(dim)] for i in range(dim)])


def solve_lower(tril: Array, b: Array) -> Array:
    """Return tril^{-1} b for tril [..., d, d] and b [..., d], by forward substitution."""
    if b.shape[-1] > _MAX_UNROLLED:
        return _solve_by_columns(tril, b)
    x: list[Array] = []
    for i in range(b.shape[-1]):
        x.append((b[..., i] - sum((tril[..., i, k] * x[k] for k in range(i)), 0.0)) / tril[..., i, i])
    return jnp.stack(x, axis=-1)


def _solve_by_columns(tril: Array, b: Array) -> Array:
    def entry(rest: Array, j: Array) -> tuple[Array, Array]:
        x = rest[..., j] / tril[..., j, j]
        return rest - tril[..., :, j] * x[..., None], x

    b = jnp.broadcast_to(b, jnp.broadcast_shapes(b.shape, tril.shape[:-1]))
    return jnp.moveaxis(jax.lax.scan(entry, b, jnp.arange(b.shape[-1]))[1], 0, -1)


def principal_axes(tril: Array) -> tuple[Array, Array]:
    """Return the axes in which tril tril^T is diagonal and the standard deviations along them, unordered.

    By one-sided Jacobi rotations of the rows of tril (Demmel and Veselic 1992), which keep the digits of small
    standard deviations beside large ones, as a decomposition of the covariance does not.

    Args:
      tril: [..., d, d].

    Returns:
      [..., d, d] orthogonal, an axis a column; [..., d] not negative.
    """
    dim = tril.shape[-1]
    pairs = jnp.asarray(list(itertools.combinations(range(dim), 2)) * _SWEEPS, jnp.int32).reshape(-1, 2)

    def rotate(state: tuple[Array, Array], pair: Array) -> tuple[tuple[Array, Array], None]:
        rows, axes = state
        i, j = pair
        one, other = rows[..., i, :], rows[..., j, :]
        cross = (one * other).sum(-1)
        apart = cross != 0
        slope = ((other**2).sum(-1) - (one**2).sum(-1)) / (2 * jnp.where(apart, cross, 1.0))
        tangent = jnp.where(slope < 0, -1.0, 1.0) / (jnp.abs(slope) + jnp.hypot(slope, 1.0))
        tangent = jnp.where(apart, tangent, 0.0)[..., None]
        cosine = jax.lax.rsqrt(1 + tangent**2)

        def turned(rows: Array) -> Array:
            one, other = rows[..., i, :], rows[..., j, :]
            rows = rows.at[..., i, :].set(cosine * (one - tangent * other))
            return rows.at[..., j, :].set(cosine * (tangent * one + other))

        return (turned(rows), turned(axes)), None

    # Of tril's type, which on some meshes says how it is spread.
    start = jnp.eye(dim, dtype=tril.dtype).reshape(*(1,) * (tril.ndim - 2), dim, dim) + 0 * tril
    (rows, axes), _ = jax.lax.scan(rotate, (tril, start), pairs)
    return axes.mT, jnp.sqrt((rows**2).sum(-1))

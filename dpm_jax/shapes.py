"""How per-timestep numbers meet batches: one time an example, batch axis first."""

from __future__ import annotations

import math

from jax import Array

__all__ = ["at", "chunk_size", "sum_event"]


def at(values: Array, t: Array, like: Array) -> Array:
    """values[t], with axes added so that it broadcasts against `like`.

    Args:
      values: [T + 1], an array of a `Schedule`.
      t: [B] int32.
      like: [B, ...].

    Returns:
      [B, 1, ..., 1] of like's rank.
    """
    return values[t].reshape(t.shape + (1,) * (like.ndim - t.ndim))


def sum_event(x: Array) -> Array:
    """Sum over all axes but the batch's: [B, ...] -> [B]."""
    return x.reshape(x.shape[0], -1).sum(axis=1)


def chunk_size(shape: tuple[int, ...], most: int) -> int:
    """How many examples of this shape to put through a network at once, `most` for small ones: memory stays bounded."""
    return max(16, min(most, 2**18 // math.prod(shape)))

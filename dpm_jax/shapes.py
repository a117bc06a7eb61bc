"""How per-timestep numbers meet batches: one time an example, batch axis first."""

from __future__ import annotations

from jax import Array

__all__ = ["at", "sum_event"]


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

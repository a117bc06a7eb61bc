"""How per-timestep numbers meet batches: one time an example, batch axis first."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

__all__ = ["as_float32", "at", "chunk_size", "concrete", "level_at", "num_arguments", "slope_at", "sum_event"]


def concrete(*values: Any) -> bool:
    """Return whether these values are known now, and not only when a traced program runs."""
    return not any(isinstance(value, jax.core.Tracer) for value in values)


def as_float32(x: Any, name: str = "x") -> Array:
    """Return x as float32, the one type that laws and kernels compute in.

    Args:
      x: real numbers of any type; integers and booleans are taken for their values.
      name: of the argument, for the error.

    Raises:
      ValueError: if x holds no real numbers.
    """
    numbers: Array = jnp.asarray(x)
    dtype = numbers.dtype
    if jnp.issubdtype(dtype, jnp.complexfloating) or not (jnp.issubdtype(dtype, jnp.number) or dtype == jnp.bool_):
        raise ValueError(f"{name}: must hold real numbers, got {dtype}")
    return numbers.astype(jnp.float32)


def at(values: Array, t: Array, like: Array) -> Array:
    """Return values[t], with axes added so that it broadcasts against `like`.

    Args:
      values: [T + 1], an array of a `Schedule`.
      t: [B] int32 in 0..T. In a traced program, where t is not known yet, NaN is returned for any other.
      like: [B, ...].

    Returns:
      [B, 1, ..., 1] of like's rank.

    Raises:
      ValueError: if t is known and outside 0..T, or holds no integers.
    """
    t = jnp.asarray(t)
    if jnp.issubdtype(t.dtype, jnp.floating):
        raise ValueError("t: must be integers, the steps of the chain; real times are for `bound.limit`")
    if concrete(t) and (outside := (np.asarray(t) < 0) | (np.asarray(t) >= len(values))).any():
        raise ValueError(f"t: times of this schedule are 0 to {len(values) - 1}, got {np.asarray(t)[outside][0]}")
    found = values.at[t].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
    return found.reshape(t.shape + (1,) * (like.ndim - t.ndim))


def level_at(values: Array, t: Array, like: Array) -> Array:
    """Return `at` of alpha_bar or sigma2, which have values between integers, too: linear in t, so that they sum to 1.

    Args:
      values: [T + 1], `alpha_bar` or `sigma2` of a `Schedule`.
      t: [B] in 0..T, integers or real numbers.
      like: [B, ...].
    """
    t = jnp.asarray(t)
    if not jnp.issubdtype(t.dtype, jnp.floating):
        return at(values, t, like)
    before = jnp.clip(jnp.floor(t), 0, len(values) - 2).astype(jnp.int32)
    share = (t - before.astype(t.dtype)).reshape(t.shape + (1,) * (like.ndim - t.ndim))
    return at(values, before, like) * (1 - share) + at(values, before + 1, like) * share


def slope_at(values: Array, t: Array) -> Array:
    """Return the slope in t of `level_at`, [B]; where two steps meet, that of the later one.

    Args:
      values: [T + 1], `alpha_bar` or `sigma2` of a `Schedule`.
      t: [B] real numbers in 1..T.
    """
    before = jnp.clip(jnp.floor(t), 1, len(values) - 2).astype(jnp.int32)
    return values[before + 1] - values[before]


def sum_event(x: Array) -> Array:
    """Return the sum over all axes but the batch's: [B, ...] -> [B]."""
    return x.reshape(x.shape[0], -1).sum(axis=1)


def chunk_size(shape: tuple[int, ...], most: int) -> int:
    """How many examples of this shape to put through a network at once, `most` for small ones: memory stays bounded."""
    return max(16, min(most, 2**18 // math.prod(shape)))


def num_arguments(function: Callable[..., Any]) -> int:
    """Return how many arguments without a default a function takes."""
    parameters = inspect.signature(function).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is inspect.Parameter.empty for p in parameters)

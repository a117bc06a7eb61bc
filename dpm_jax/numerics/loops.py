"""Scans under meshes whose axes are part of an array's type.

Under `jax.shard_map`, and on a mesh with explicit axes, a type says how an array is spread. A carry that begins with
zeros, or with draws from a key that all devices share, is spread over nothing; what a step makes of it, with data, is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec

__all__ = ["scan", "spread_as", "whole"]

Carry = TypeVar("Carry")


def scan(step: Callable[[Carry, Any], tuple[Carry, Any]], init: Carry, xs: Any) -> tuple[Carry, Any]:
    """Scan as `jax.lax.scan` does, with a carry that begins as spread as the steps leave it."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.manual_axes or mesh.explicit_axes:
        first = jax.tree.map(lambda values: values[0], xs)
        if mesh.explicit_axes:
            made: Any = jax.eval_shape(step, init, first)[0]
            init = jax.tree.map(lambda value, like: jax.sharding.reshard(value, like.sharding.spec), init, made)
        else:
            # Never chosen, and compiled away: it lends its type.
            made = step(init, first)[0]
            init = jax.tree.map(lambda value, like: jnp.where(False, like, value), init, made)
    return jax.lax.scan(step, init, xs)


def whole(x: Array) -> Array:
    """Return x, on a mesh with explicit axes spread over none of them, so that its rows can be picked."""
    if not jax.sharding.get_abstract_mesh().explicit_axes:
        return x
    together: Array = jax.sharding.reshard(x, PartitionSpec())
    return together


def spread_as(like: Array, x: Array) -> Array:
    """Return x, under `jax.shard_map` with the type of a number that varies as `like` does and as x does."""
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return x
    return jnp.where(False, like.reshape(-1)[0], x)

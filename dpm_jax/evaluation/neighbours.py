"""Find nearest neighbours in a data set, which show whether a model has learnt its training set by heart."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

__all__ = ["Neighbours", "nearest"]

# Of queries and of references at a time: rows, and numbers in them.
_MAX_ROWS, _MAX_NUMBERS = 1024, 2**22


class Neighbours(NamedTuple):
    """Neighbours of each query, the nearest first.

    Attributes:
      indices: [Q, num] int64, rows of the references.
      distances: [Q, num] float32, Euclidean.
    """

    indices: np.ndarray
    distances: np.ndarray


@jax.jit
def _closer(indices: Array, squared: Array, queries: Array, references: Array, first: Array) -> tuple[Array, Array]:
    """Return the best so far, [Q, num] each, against one more chunk of references, rows `first` and on."""
    queries, references = queries.astype(jnp.float32), references.astype(jnp.float32)
    # Of differences, not of |a|^2 + |b|^2 - 2 ab, so that a copy is at 0 exactly. Fused: no [Q, N, D] is made.
    chunk = ((queries[:, None] - references) ** 2).sum(-1)
    rows = jnp.broadcast_to(first + jnp.arange(chunk.shape[1]), chunk.shape)
    both = jnp.concatenate([squared, chunk], axis=1)
    negative, kept = jax.lax.top_k(-both, squared.shape[1])
    return jnp.take_along_axis(jnp.concatenate([indices, rows], axis=1), kept, axis=1), -negative


def nearest(queries: ArrayLike, references: ArrayLike, num: int = 1) -> Neighbours:
    """Return the `num` nearest references of each query, by comparison with all of them.

    In chunks, each made float32 by itself, so beyond the arguments memory is some 50 MB
    however many there are. Ties, to float32's rounding, fall either way.

    Args:
      queries: [Q, ...] of real numbers or bits, of any type.
      references: [N, ...], with examples of the same shape.
      num: how many, from 1 to N.

    Returns:
      `Neighbours`, each [Q, num].

    Raises:
      ValueError: if there are no queries, shapes differ, num is out of range, or a value is NaN or infinite.
    """
    queries, references = np.asarray(queries), np.asarray(references)
    if queries.ndim < 1 or references.ndim < 1 or queries.shape[1:] != references.shape[1:]:
        raise ValueError(f"queries: shape {queries.shape} does not go with references of shape {references.shape}")
    if queries.size == 0:
        raise ValueError(f"queries: empty, shape {queries.shape}")
    if not 1 <= num <= len(references):
        raise ValueError(f"num: must be from 1 to {len(references)}, the number of references, got {num}")
    for name, array in (("queries", queries), ("references", references)):
        low, high = array.min(), array.max()
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError(f"{name}: values must be finite, got {low} to {high}")
    parts = [_nearest(part, references, num) for part in _chunks(queries)]
    indices, squared = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Neighbours(indices.astype(np.int64), np.sqrt(squared))


def _nearest(queries: np.ndarray, references: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Return indices and squared distances, [Q, num] each, for one chunk of queries."""
    on_device = jnp.asarray(queries)
    indices, squared = jnp.zeros((len(queries), num), jnp.int32), jnp.full((len(queries), num), jnp.inf)
    first = 0
    for chunk in _chunks(references):
        indices, squared = _closer(indices, squared, on_device, jnp.asarray(chunk), jnp.int32(first))
        first += len(chunk)
        # Or chunks would queue up, and fill the memory.
        squared.block_until_ready()
    return np.asarray(indices), np.asarray(squared)


def _chunks(rows: np.ndarray) -> list[np.ndarray]:
    """Return views of the rows, each flattened, in chunks as even as can be, so that they are of two sizes at most."""
    flat = rows.reshape(len(rows), -1)
    most = min(max(_MAX_NUMBERS // flat.shape[1], 1), _MAX_ROWS)
    return np.array_split(flat, -(-len(flat) // most))

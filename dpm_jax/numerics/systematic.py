"""Systematic draws: indices in proportion to weights, from one random number (Carpenter et al. 1999).

The positions (k + offset) / num, k = 0..num - 1, are looked up in the running sum of the weights. In float32 that sum
is not monotone on every platform (prefix sums are computed as trees), and a search in it returns indices of weight 0.
Here the sum is one of integers: exact, monotone, and normalised by its last entry.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

__all__ = ["indices", "places"]

# Weights are rounded to this share of their sum, which leaves int32 room for the rounding of 10^9 of them.
_TICKS = 2**30


def places(offset: Array, weights: Array, num: int) -> tuple[Array, Array]:
    """Return sorted indices, each num times its share of the weights, rounded up or down, and how far within it.

    An index of weight 0 is never returned, nor one whose share is below 2^-31. Shares are rounded to multiples of
    2^-30, so that counts may be off by another num / 2^28: 0.004 at a million.

    Args:
      offset: [...] in [0, 1); where it is uniform, the expected counts are num times the shares.
      weights: [..., N] finite and not negative; they need not be normalised. If all are 0, index 0 is returned.
      num: how many.

    Returns:
      int32 [..., num]; and float32 [..., num] in [0, 1], the part of the index's share that lies before the position.
    """

    def search(offset: Array, weights: Array) -> tuple[Array, Array]:
        total = weights.sum()
        ticks = jnp.round(weights / jnp.where(total > 0, total, 1.0) * _TICKS).astype(jnp.int32)
        ends = jax.lax.cumsum(ticks)
        # (k + offset) ends[-1] / num in integers; the roundings of float32 are below num, or the same for all k.
        k = jnp.arange(num, dtype=jnp.int32)
        share = (ends[-1] % num).astype(jnp.float32) / num
        first = (offset * (ends[-1].astype(jnp.float32) / num)).astype(jnp.int32)
        positions = k * (ends[-1] // num) + (k.astype(jnp.float32) * share).astype(jnp.int32) + first
        positions = jnp.minimum(positions, ends[-1] - 1)
        index = jnp.searchsorted(ends, positions, side="right").astype(jnp.int32)
        left, size = (a.astype(jnp.float32) for a in (ends[index] - positions, jnp.maximum(ticks[index], 1)))
        return index, 1 - left / size

    found: tuple[Array, Array] = jnp.vectorize(search, signature="(),(n)->(k),(k)")(offset, weights)
    return found


def indices(offset: Array, weights: Array, num: int) -> Array:
    """Return the indices of `places`, int32 [..., num]."""
    return places(offset, weights, num)[0]

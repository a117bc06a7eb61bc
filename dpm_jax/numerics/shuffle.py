"""Random orders. `jax.random.permutation` sorts pairs, which CPUs do several times as slowly as single numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

__all__ = ["order"]


def order(key: Array, num: int) -> Array:
    """Return 0..num-1 in random order, int32 [num].

    Integers are sorted whose high bits are random and whose low bits are the numbers. Two of them have the same random
    bits with a probability of at most 2 num / 2^32; then the smaller number comes first.
    """
    low = jnp.uint32((1 << max(num - 1, 0).bit_length()) - 1)
    ordered = jnp.sort((jax.random.bits(key, (num,), jnp.uint32) & ~low) | jnp.arange(num, dtype=jnp.uint32))
    found: Array = (ordered & low).astype(jnp.int32)
    return found

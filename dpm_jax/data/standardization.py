"""Zero mean and unit variance for the model, the data's own units for people."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

__all__ = ["Standardization", "fit", "identity"]


class Standardization(NamedTuple):
    """x = (raw - mean) / scale. mean and scale broadcast against one example."""

    mean: Array
    scale: Array

    def apply(self, raw: Array) -> Array:
        """The data's own units to the model's, [B, ...]."""
        return (raw - self.mean) / self.scale

    def invert(self, x: Array) -> Array:
        """The model's units to the data's own, [B, ...]."""
        return x * self.scale + self.mean


def identity() -> Standardization:
    """For data that are in the model's units already."""
    return Standardization(jnp.zeros(()), jnp.ones(()))


def fit(raw: np.ndarray) -> Standardization:
    """Mean and standard deviation of each coordinate of [N, d] data, in float64.

    Raises:
      ValueError: if a coordinate is constant, naming it.
    """
    scale = raw.std(axis=0, dtype=np.float64)
    if not (scale > 0).all():
        raise ValueError(f"coordinate {int(np.argmin(scale))} of the data is constant")
    mean = raw.mean(axis=0, dtype=np.float64)
    return Standardization(jnp.asarray(mean, jnp.float32), jnp.asarray(scale, jnp.float32))

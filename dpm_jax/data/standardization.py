"""Zero mean and unit variance for the model, the data's own units for people."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

__all__ = ["Standardization", "fit", "identity"]


class Standardization(NamedTuple):
    """x = (raw - mean) / scale. mean and scale broadcast against one example."""

    mean: Array | np.ndarray
    scale: Array | np.ndarray

    def apply(self, raw: np.ndarray) -> np.ndarray:
        """The data's own units to the model's, [B, ...] float32; the difference is taken in raw's own precision."""
        return np.asarray((raw - np.asarray(self.mean)) / np.asarray(self.scale), np.float32)

    def invert(self, x: Array) -> Array:
        """The model's units to the data's own, [B, ...]."""
        return x * self.scale + self.mean


def identity() -> Standardization:
    """For data that are in the model's units already."""
    return Standardization(jnp.zeros(()), jnp.ones(()))


def fit(raw: np.ndarray) -> Standardization:
    """Mean and standard deviation of each coordinate of [N, d] data, as float64 NumPy arrays.

    Raises:
      ValueError: if a coordinate is constant, naming it.
    """
    scale = raw.std(axis=0, dtype=np.float64)
    if not (scale > 0).all():
        raise ValueError(f"coordinate {int(np.argmin(scale))} of the data is constant")
    mean = raw.mean(axis=0, dtype=np.float64)
    return Standardization(mean, scale)

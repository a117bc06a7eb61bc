"""Zero mean and unit variance for the model, the data's own units for people.

Pixels are integers v in 0..levels - 1, and a density is modelled: so uniform noise u of one
quantisation step is added first (paper, section 3.2),

    x = (v + u - mean) / scale,   u ~ U[0, 1),   v = floor(x scale + mean).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

__all__ = ["Standardization", "dequantization_noise", "fit", "identity", "of_pixels"]


class Standardization(NamedTuple):
    """x = (raw - mean) / scale. mean and scale broadcast against one example.

    Attributes:
      mean, scale: in the data's own units.
      levels: how many values a raw coordinate has, 0..levels - 1; None where it is a real number.
    """

    mean: Array | np.ndarray
    scale: Array | np.ndarray
    levels: int | None = None

    def apply(self, raw: np.ndarray) -> np.ndarray:
        """The data's own units to the model's, [B, ...] float32; the difference is taken in raw's own precision."""
        return np.asarray((raw - np.asarray(self.mean)) / np.asarray(self.scale), np.float32)

    def dequantize(self, key: Array, raw: Array | np.ndarray) -> Array:
        """Pixels [B, ...] to the model's units, with noise of one step; real numbers without. Traceable."""
        values = jnp.asarray(raw, jnp.float32)
        if self.levels is not None:
            values = values + dequantization_noise(key, values.shape)
        return (values - self.mean) / self.scale

    def centres(self, raw: Array | np.ndarray) -> Array:
        """Pixels [B, ...] to the middles of their steps, in the model's units."""
        offset = 0.0 if self.levels is None else 0.5
        return (jnp.asarray(raw, jnp.float32) + offset - self.mean) / self.scale

    def invert(self, x: Array) -> Array:
        """The model's units to the data's own, [B, ...]; pixels become uint8, and what is out of range is clipped."""
        raw = x * self.scale + self.mean
        if self.levels is None:
            return raw
        return jnp.clip(jnp.floor(raw), 0, self.levels - 1).astype(jnp.uint8)


def dequantization_noise(key: Array, shape: tuple[int, ...]) -> Array:
    """Uniform on the 4096 midpoints of [0, 1), float32.

    As good as continuous for any density that does not vary within 1/4096 of a step; and so far
    from 0 and 1 that float32 never carries a pixel over into its neighbour on the way back.
    """
    draws = jax.random.bits(key, shape, jnp.uint16) >> 4
    return (draws.astype(jnp.float32) + 0.5) / 4096


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


def of_pixels(mean: float, variance: float, levels: int | None) -> Standardization:
    """For images, one mean and scale for all pixels and channels.

    Args:
      mean: of the raw pixels.
      variance: of the raw pixels; the noise of `dequantize` is added to both here.
      levels: of the raw pixels; None for real numbers.

    Raises:
      ValueError: if all pixels are the same.
    """
    if not variance > 0:
        raise ValueError("all pixels have the same value")
    if levels is not None:
        mean, variance = mean + 0.5, variance + 1 / 12
    return Standardization(np.asarray(mean), np.asarray(variance**0.5), levels)

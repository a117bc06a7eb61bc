"""Zero mean and unit variance for the model, the data's own units for the user.

Integers v, such as pixels, are dequantised: a density is modelled, so uniform noise u of one step is added first
(paper, section 3.2),

    x = (v + u - mean) / scale,   u ~ U[0, 1),   v = floor(x scale + mean).

Between the data's own units and the model's, everything is computed on the host in float64 and rounded to float32
last: data may lie at an offset at which float32 would not tell them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dpm_jax.distributions import Grid
from dpm_jax.spectrum import Spectrum

__all__ = ["FARTHEST", "Standardization", "constants", "dequantization_noise", "fit", "identity", "of_pixels"]

# The greatest distance of a value from the middle of the data, in units of their spread. A value farther out leaves
# the others no room in float32: they would all become one number.
FARTHEST = 1e7

# A column is taken for constant if its standard deviation is at most this many float spacings of its values.
_ROUNDING_STEPS = 4


class Standardization(NamedTuple):
    """x = (raw - mean) / scale. mean and scale broadcast against one example of the model's shape.

    Attributes:
      mean, scale: in the data's own units, float64.
      levels: number of values of a pixel, 0..levels - 1; None for other data.
      integers: bool, broadcasting against one example: which coordinates, of data that are not pixels, hold integers.
      constants: value of each column that the model does not see because all data agree there, by its index.
      spectrum: of images, in the model's units, where the noise has the data's spectrum; None where it is white.
    """

    mean: np.ndarray
    scale: np.ndarray
    levels: int | None = None
    integers: np.ndarray | bool = False
    constants: Mapping[int, float] = MappingProxyType({})
    spectrum: Spectrum | None = None

    @property
    def step(self) -> np.ndarray:
        """Distance of neighbouring values in the data's own units: 1 for integers, 0 for real numbers."""
        return np.asarray(1.0 if self.levels is not None else self.integers, np.float64)

    @property
    def grid(self) -> Grid | None:
        """Levels of pixels, the middles of their steps, in the model's units; None for other data."""
        if self.levels is None:
            return None
        return Grid(float((0.5 - self.mean) / self.scale), float(1 / self.scale), self.levels)

    def raw_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of an example in the data's own units, from its shape in the model's."""
        return (*shape[:-1], shape[-1] + len(self.constants))

    def keep(self, raw: np.ndarray) -> np.ndarray:
        """Leave the constant columns out: [..., d] -> [..., those that the model sees]."""
        return np.delete(raw, list(self.constants), axis=-1) if self.constants else raw

    def centres(self, raw: Array | np.ndarray) -> np.ndarray:
        """Convert data in their own units [B, ...] to the model's, float32; integers to the middles of their steps."""
        values = self.keep(np.asarray(raw)).astype(np.float64)
        return np.asarray((values + self.step / 2 - self.mean) / self.scale, np.float32)

    def dequantize(self, key: Array, raw: Array | np.ndarray) -> Array:
        """8-bit pixels [B, ...] to the model's units, with noise of one step. Traceable: float32 holds pixels."""
        values = jnp.asarray(raw, jnp.float32) + dequantization_noise(key, raw.shape)
        x: Array = (values - jnp.float32(self.mean)) / jnp.float32(self.scale)
        return x

    def spread(self, key: Array, centres: Array) -> Array:
        """Spread integers in the model's units, [B, ...], from the middles of their steps over the steps. Traceable."""
        if not self.step.any():
            return centres
        step = jnp.broadcast_to(jnp.asarray(self.step / self.scale, jnp.float32), centres.shape)
        return centres + (dequantization_noise(key, centres.shape) - 0.5) * step

    def invert(self, x: Array | np.ndarray) -> np.ndarray:
        """Convert the model's units [B, ...] to the data's own, float64.

        Integers are rounded down from within their steps; pixels are clipped to their range and become uint8.
        """
        raw: np.ndarray = np.asarray(x, np.float64) * self.scale + self.mean
        if self.levels is not None:
            pixels: np.ndarray = np.clip(np.floor(raw), 0, self.levels - 1).astype(np.uint8)
            return pixels
        raw = np.where(self.integers, np.floor(raw), raw)
        if not self.constants:
            return raw
        whole = np.empty(self.raw_shape(raw.shape))
        whole[..., list(self.constants)] = list(self.constants.values())
        whole[..., self.keep(np.arange(whole.shape[-1]))] = raw
        return whole


def dequantization_noise(key: Array, shape: tuple[int, ...]) -> Array:
    """Sample uniformly from the 4096 midpoints of [0, 1), float32.

    As good as continuous for any density that does not vary within 1/4096 of a step; and so far
    from 0 and 1 that float32 never carries a pixel over into its neighbour on the way back.
    """
    draws = jax.random.bits(key, shape, jnp.uint16) >> 4
    return (draws.astype(jnp.float32) + 0.5) / 4096


def identity() -> Standardization:
    """Return the standardization of data that are in the model's units already."""
    return Standardization(np.zeros(()), np.ones(()))


def _moments(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, standard deviation and greatest magnitude over the first axis; float64, where no square overflows."""
    magnitude = np.abs(raw).max(axis=0).astype(np.float64)
    unit = np.where(magnitude > 0, magnitude, 1.0)
    relative = raw / unit
    return relative.mean(axis=0) * unit, relative.std(axis=0) * unit, magnitude


def _precision(dtype: np.dtype) -> float:
    return float(np.finfo(dtype).eps) if np.issubdtype(dtype, np.floating) else 0.0


def constants(raw: np.ndarray) -> dict[int, float]:
    """Find the columns of [N, d] data that hold one number, or differ only by the rounding of their dtype.

    Returns:
      The number by the column's index.
    """
    _, scale, magnitude = _moments(raw)
    same = raw.min(axis=0) == raw.max(axis=0)
    rounded = scale <= _ROUNDING_STEPS * _precision(raw.dtype) * magnitude
    # The first value is exact, the mean is not.
    return {int(i): float(raw[0, i]) for i in np.flatnonzero(same | rounded)}


def fit(raw: np.ndarray, integers: np.ndarray | bool = False, leave_out: bool = False) -> Standardization:
    """Fit mean and standard deviation of each column of [N, d] data.

    Args:
      raw: numbers in the precision that they came in.
      integers: [d] bool, the columns that are integers to be dequantised.
      leave_out: whether columns that are constant are left out for the model.

    Raises:
      ValueError: if a column is constant and not left out, naming it, or all columns are.
    """
    same = constants(raw)
    if same and not leave_out:
        column, value = next(iter(same.items()))
        more = f" (and {len(same) - 1} more)" if len(same) > 1 else ""
        raise ValueError(
            f"column {column} is constant, {value!r} but for rounding{more}; "
            "--config.data.file.constant_columns=leave_out trains without, and puts it back into samples"
        )
    if len(same) == raw.shape[1]:
        raise ValueError("every column is constant")
    standard = Standardization(np.zeros(()), np.ones(()), constants=same)
    mean, scale, _ = _moments(standard.keep(raw))
    whole = standard.keep(np.broadcast_to(integers, raw.shape[1:])) & True
    return standard._replace(
        mean=mean + 0.5 * whole, scale=np.sqrt(scale**2 + whole / 12) if whole.any() else scale, integers=whole
    )


def of_pixels(mean: float, variance: float, levels: int | None, integers: bool = False) -> Standardization:
    """Fit images, with one mean and scale for all pixels and channels.

    Args:
      mean: of the raw pixels.
      variance: of the raw pixels; the noise of dequantisation is added to both here.
      levels: of the raw pixels; None for other numbers.
      integers: whether these other numbers are integers to be dequantised.

    Raises:
      ValueError: if all pixels are the same.
    """
    if not variance > (_ROUNDING_STEPS * np.finfo(np.float64).eps * mean) ** 2:
        raise ValueError("all pixels have the same value")
    if levels is not None or integers:
        mean, variance = mean + 0.5, variance + 1 / 12
    return Standardization(np.asarray(mean), np.asarray(variance**0.5), levels, np.asarray(integers))

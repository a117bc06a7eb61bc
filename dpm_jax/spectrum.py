"""The spectrum of images: how much they vary at each frequency, and images in which all frequencies vary alike.

With an orthonormal basis B (cosines over height and width, principal axes over channels) and the standard deviation s
of the data's coefficient at each frequency, z = B^T diag(1/s) B x is an image whose coefficients have unit variance,
and log p(x) = log p(z) - sum log s.
"""

from __future__ import annotations

import dataclasses
from functools import lru_cache, partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from dpm_jax.numerics.cosines import cosines

__all__ = ["Spectrum", "fit"]

# The least standard deviation of a coefficient, in units of the greatest: less is rounding.
_LEAST = 1e-4


# Compared and hashed by identity: a constant of the programs that it is in.
@dataclasses.dataclass(frozen=True, eq=False)
class Spectrum:
    """Standard deviations of the coefficients of images [..., H, W, C]; `fit` makes it.

    Images of another height and width have the same spectrum by frequency, see `resized`.

    Attributes:
      log_scale: [H, W, C] log of the standard deviation, by frequency along height and width, and by principal axis.
      axes: [C, C] orthonormal principal axes of the channels, an axis a row.
    """

    log_scale: np.ndarray
    axes: np.ndarray

    def whiten(self, x: Array) -> Array:
        """Return z of images x, [..., H, W, C]."""
        found = self._of(jnp.shape(x))
        return _scaled(x, found.axes, -found.log_scale)

    def colour(self, z: Array) -> Array:
        """Return x of z, [..., H, W, C]; this map is symmetric."""
        found = self._of(jnp.shape(z))
        return _scaled(z, found.axes, found.log_scale)

    def log_det(self, shape: tuple[int, ...] | None = None) -> float:
        """Return the log of the volume of z for that of x, nats an image: log p(x) = log p(z) + log_det.

        Args:
          shape: of an image; that of the images it was fitted to if None.
        """
        found = self if shape is None else self._of(shape)
        return -float(np.sum(found.log_scale, dtype=np.float64))

    def resized(self, height: int, width: int) -> Spectrum:
        """Return the spectrum of images of another size, by frequencies in cycles a pixel, linear in between."""
        return self if (height, width) == self.log_scale.shape[:2] else _resized(self, height, width)

    def _of(self, shape: tuple[int, ...]) -> Spectrum:
        """Return the spectrum of images of this shape."""
        if len(shape) < 3 or shape[-1] != len(self.axes):
            raise ValueError(f"x: images [..., H, W, {len(self.axes)}] are needed, got shape {shape}")
        return self.resized(*shape[-3:-1])


def _scaled(x: Array, axes: np.ndarray, log_scale: np.ndarray) -> Array:
    height, width, _ = log_scale.shape
    product: Any = partial(jnp.einsum, precision="highest")
    y = product("ih,jw,kc,...hwc->...ijk", cosines(height), cosines(width), axes, x)
    y = y * np.exp(log_scale)
    return product("ih,jw,kc,...ijk->...hwc", cosines(height), cosines(width), axes, y)  # type: ignore[no-any-return]


@lru_cache(maxsize=16)
def _resized(spectrum: Spectrum, height: int, width: int) -> Spectrum:
    scale = np.asarray(spectrum.log_scale, np.float64)
    for axis, size in enumerate((height, width)):
        rows = np.moveaxis(scale, axis, -1)
        known, wanted = np.arange(rows.shape[-1]) / rows.shape[-1], np.arange(size) / size
        between = [np.interp(wanted, known, row) for row in rows.reshape(-1, rows.shape[-1])]
        scale = np.moveaxis(np.reshape(between, (*rows.shape[:-1], size)), -1, axis)
    return Spectrum(scale.astype(np.float32), spectrum.axes)


def fit(images: np.ndarray) -> Spectrum:
    """Fit the spectrum of images.

    Args:
      images: [N, H, W, C] in the model's units, with the noise of dequantisation if they are pixels; some thousands.

    Raises:
      ValueError: if they have another shape, or hold nothing but zeros.
    """
    x = np.asarray(images, np.float64)
    if x.ndim != 4:
        raise ValueError(f"images: must have shape [N, H, W, C], got {x.shape}")
    flat = x.reshape(-1, x.shape[-1])
    _, axes = np.linalg.eigh(flat.T @ flat)
    height, width = (np.asarray(cosines(size), np.float64) for size in x.shape[1:3])
    coefficients = np.einsum("ih,jw,kc,nhwc->nijk", height, width, axes.T, x, optimize=True)
    scale = np.sqrt((coefficients**2).mean(0))
    if not scale.max() > 0:
        raise ValueError("images: hold nothing but zeros")
    log_scale = np.log(np.maximum(scale, _LEAST * scale.max()))
    return Spectrum(log_scale.astype(np.float32), axes.T.astype(np.float32))

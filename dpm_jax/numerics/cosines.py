"""The cosine transform of images, as matrix products: an FFT inside a scan can deadlock on CPU."""

from __future__ import annotations

import functools

import numpy as np

__all__ = ["cosines"]


@functools.cache
def cosines(size: int) -> np.ndarray:
    """Return the orthonormal cosine transform (DCT-II), [size, size] float32, a frequency a row."""
    frequency, place = np.arange(size)[:, None], np.arange(size) + 0.5
    basis = np.sqrt(2 / size) * np.cos(np.pi * frequency * place / size)
    basis[0] /= np.sqrt(2)
    return np.asarray(basis, np.float32)

"""Vectors or images from a NumPy file: a user's own data, held in memory."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = ["Split", "apart", "load", "split"]


class Split(NamedTuple):
    """Rows to train on and rows kept back, each [n, ...]."""

    train: np.ndarray
    held_out: np.ndarray


def load(path: str | Path) -> np.ndarray:
    """Read a `.npy`, or the key `samples` of a `.npz` (as `sample.py` writes).

    Returns:
      [N, d] float64 vectors, or [N, H, W, C] images, uint8 (of integers) or float32 (of floats);
      [N, H, W] becomes [N, H, W, 1].

    Raises:
      ValueError: if the file is missing or unreadable, is of no such shape with N >= 2, does not
        hold numbers (for images: floats, or integers from 0 to 255), or holds NaN or infinity.
        Pickled objects are refused.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            with loaded as archive:
                if "samples" not in archive:
                    raise ValueError(f"no key 'samples' among {sorted(archive)}")
                loaded = archive["samples"]
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    if loaded.ndim not in (2, 3, 4) or loaded.shape[0] < 2 or 0 in loaded.shape:
        raise ValueError(
            f"{path} has shape {loaded.shape}; vectors need [N, d], images [N, H, W] or [N, H, W, C], with N >= 2"
        )
    if not (np.issubdtype(loaded.dtype, np.number) or loaded.dtype == bool) or np.iscomplexobj(loaded):
        raise ValueError(f"{path} holds {loaded.dtype}; real numbers are needed")
    if loaded.ndim > 2:
        return _images(path, loaded)
    data: np.ndarray = loaded.astype(np.float64)
    _check_finite(path, data)
    return data


def _images(path: str | Path, loaded: np.ndarray) -> np.ndarray:
    images = loaded if loaded.ndim == 4 else loaded[..., None]
    if images.shape[-1] > 4:
        raise ValueError(f"{path} has shape {loaded.shape}, so {images.shape[-1]} channels; channels come last")
    if np.issubdtype(images.dtype, np.floating):
        images = images.astype(np.float32)
        _check_finite(path, images)
        return images
    if images.dtype == bool or images.min() < 0 or images.max() > 255:
        raise ValueError(f"{path} holds {images.dtype} images; give floats, or integers from 0 to 255")
    return images.astype(np.uint8)


def _check_finite(path: str | Path, data: np.ndarray) -> None:
    bad = ~np.isfinite(data.reshape(len(data), -1)).all(axis=1)
    if bad.any():
        raise ValueError(f"{path} holds NaN or infinity, first in row {int(np.argmax(bad))}")


def split(data: np.ndarray, fraction: float) -> Split:
    """Keep back a fraction of the rows, chosen by a fixed permutation; at least one row on each side."""
    order = np.random.RandomState(0).permutation(len(data))
    kept = min(max(round(fraction * len(data)), 1), len(data) - 1)
    return Split(train=data[order[kept:]], held_out=data[order[:kept]])


def apart(num: int, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Part the training split, always in the same way: indices to train on, indices to compare checkpoints on.

    At least one on each side; both are all of them where the fraction is 0 or there is a single one.
    """
    if fraction == 0 or num < 2:
        return np.arange(num), np.arange(num)
    kept = min(max(round(fraction * num), 1), num - 1)
    order = np.random.RandomState(1).permutation(num)
    return np.sort(order[kept:]), np.sort(order[:kept])

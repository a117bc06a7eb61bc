"""Vectors or images from a NumPy file: a user's own data, held in memory."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = ["Split", "load", "split"]


class Split(NamedTuple):
    """Rows to train on and rows kept back, each [n, ...]."""

    train: np.ndarray
    held_out: np.ndarray


def load(path: str | Path) -> np.ndarray:
    """Read a `.npy`, or the key `samples` of a `.npz` (as `sample.py` writes).

    Returns:
      [N, d] float64 vectors, or [N, H, W, C] images, uint8 or (of any other numbers) float32;
      [N, H, W] becomes [N, H, W, 1].

    Raises:
      ValueError: if the file is missing or unreadable, is of no such shape with N >= 2, does not
        hold numbers, or holds NaN or infinity. Pickled objects are refused.
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
    if loaded.ndim > 2 and loaded.dtype == np.uint8:
        data: np.ndarray = loaded
    else:
        data = loaded.astype(np.float64 if loaded.ndim == 2 else np.float32)
        bad = ~np.isfinite(data.reshape(len(data), -1)).all(axis=1)
        if bad.any():
            raise ValueError(f"{path} holds NaN or infinity, first in row {int(np.argmax(bad))}")
    return data[..., None] if data.ndim == 3 else data


def split(data: np.ndarray, fraction: float) -> Split:
    """Keep back a fraction of the rows, chosen by a fixed permutation; at least one row on each side."""
    order = np.random.RandomState(0).permutation(len(data))
    kept = min(max(round(fraction * len(data)), 1), len(data) - 1)
    return Split(train=data[order[kept:]], held_out=data[order[:kept]])

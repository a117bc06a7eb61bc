"""Vectors from a NumPy file: a user's own points or bit strings, held in memory."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = ["Split", "load", "split"]


class Split(NamedTuple):
    """Rows to train on and rows kept back, each [n, d] float64."""

    train: np.ndarray
    held_out: np.ndarray


def load(path: str | Path) -> np.ndarray:
    """Read [N, d] float64 from a `.npy`, or from a `.npz` with the key `samples` (as `sample.py` writes).

    Raises:
      ValueError: if the file is missing or unreadable, is not [N, d] with N >= 2 of
        numbers, or holds NaN or infinity. Pickled objects are refused.
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
    if loaded.ndim != 2 or loaded.shape[0] < 2 or loaded.shape[1] < 1:
        raise ValueError(f"{path} has shape {loaded.shape}; vectors need [N, d] with N >= 2")
    if not (np.issubdtype(loaded.dtype, np.number) or loaded.dtype == bool) or np.iscomplexobj(loaded):
        raise ValueError(f"{path} holds {loaded.dtype}; real numbers are needed")
    data: np.ndarray = loaded.astype(np.float64)
    bad = ~np.isfinite(data).all(axis=1)
    if bad.any():
        raise ValueError(f"{path} holds NaN or infinity, first in row {int(np.argmax(bad))}")
    return data


def split(data: np.ndarray, fraction: float) -> Split:
    """Keep back a fraction of the rows, chosen by a fixed permutation; at least one row on each side."""
    order = np.random.RandomState(0).permutation(len(data))
    kept = min(max(round(fraction * len(data)), 1), len(data) - 1)
    return Split(train=data[order[kept:]], held_out=data[order[:kept]])

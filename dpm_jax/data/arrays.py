"""Vectors or images from a NumPy file, or vectors from a table of comma-separated values, held in memory."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dpm_jax.data.standardization import FARTHEST

__all__ = ["Split", "apart", "checked", "integers", "load", "read_table", "split"]

# Rows by which the middle of the data and their spread are found: quantiles need no more.
_FOR_QUANTILES = 10_000


class Split(NamedTuple):
    """Rows to train on and rows kept back, each [n, ...]."""

    train: np.ndarray
    held_out: np.ndarray


def load(path: str | Path) -> np.ndarray:
    """Read a `.npy`, the key `samples` of a `.npz` (as `sample.py` writes), or a `.csv`.

    Returns:
      [N, d] vectors, in the floating point type of the file (float64 if it holds integers);
      or [N, H, W, C] images, uint8 of integers, and of floats in their own type; [N, H, W] becomes [N, H, W, 1].

    Raises:
      ValueError: if the file is missing or unreadable, is of no such shape with N >= 2, does not
        hold numbers (for images: floats, or integers from 0 to 255), or holds NaN, infinity, or an outlier that
        would leave the other values no room in float32; it names the first. Pickled objects are refused.
    """
    try:
        loaded = read_table(path) if Path(path).suffix.lower() == ".csv" else np.load(path, allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            with loaded as archive:
                if "samples" not in archive:
                    raise ValueError(f"no key 'samples' among {sorted(archive)}")
                loaded = archive["samples"]
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    return checked(loaded, path)


def checked(loaded: np.ndarray, path: str | Path) -> np.ndarray:
    """Return an array as `load` does, or refuse it; `path` is its name, for messages.

    Raises:
      ValueError: as `load`, but for files that can't be read.
    """
    if loaded.ndim not in (2, 3, 4) or loaded.shape[0] < 2 or 0 in loaded.shape:
        raise ValueError(
            f"{path} has shape {loaded.shape}; vectors need [N, d], images [N, H, W] or [N, H, W, C], with N >= 2"
        )
    if not (np.issubdtype(loaded.dtype, np.number) or loaded.dtype == bool) or np.iscomplexobj(loaded):
        raise ValueError(f"{path} holds {loaded.dtype}; real numbers are needed")
    if loaded.ndim > 2:
        loaded = _images(path, loaded)
        if loaded.dtype == np.uint8:
            return loaded
    elif not np.issubdtype(loaded.dtype, np.floating):
        loaded = loaded.astype(np.float64)
    _check_finite(path, loaded)
    _check_outliers(path, loaded)
    return loaded


def read_table(path: str | Path) -> np.ndarray:
    """Read numbers separated by commas, one vector a line: [N, d] float64; a first line of names is left out.

    Raises:
      OSError: if the file is missing.
      ValueError: if it holds anything else, naming row (from 0, without the names) and column.
    """
    with open(path, encoding="utf-8-sig") as file:
        first = file.readline()
        file.seek(0)
        return np.loadtxt(file, delimiter=",", ndmin=2, quotechar='"', skiprows=0 if _are_numbers(first) else 1)


def _are_numbers(line: str) -> bool:
    """Whether any cell is a number: a name beside numbers is an error, not a line of names."""
    for cell in line.split(","):
        try:
            float(cell.strip().strip('"'))
        except ValueError:
            continue
        return True
    return not line.strip()


def _images(path: str | Path, loaded: np.ndarray) -> np.ndarray:
    images = loaded if loaded.ndim == 4 else loaded[..., None]
    if images.shape[-1] > 4:
        raise ValueError(f"{path} has shape {loaded.shape}, so {images.shape[-1]} channels; channels come last")
    if np.issubdtype(images.dtype, np.floating):
        return images
    if images.dtype == bool or images.min() < 0 or images.max() > 255:
        raise ValueError(f"{path} holds {images.dtype} images; give floats, or integers from 0 to 255")
    return images.astype(np.uint8)


def _check_finite(path: str | Path, data: np.ndarray) -> None:
    bad = ~np.isfinite(data)
    if bad.any():
        raise ValueError(f"{path} holds NaN or infinity, first in {_place(np.argwhere(bad)[0])}")


def _check_outliers(path: str | Path, data: np.ndarray) -> None:
    """Refuse values at `FARTHEST` or more times the spread from the middle, of their column or of all pixels."""
    columns = data if data.ndim == 2 else data.reshape(-1, 1)
    some = columns[:: max(1, len(columns) // _FOR_QUANTILES)].astype(np.float64)
    middle = np.median(some, axis=0)
    # Where most values are one and the same, as in counts, that one says nothing of the spread.
    apart = [column[column > 0] for column in np.abs(some - middle).T]
    spread = np.array([np.median(column) if len(column) else np.inf for column in apart])
    distance = np.maximum(columns.max(axis=0) - middle, middle - columns.min(axis=0))
    for column in np.flatnonzero(distance > FARTHEST * spread):
        row = int(np.argmax(np.abs(columns[:, column] - middle[column])))
        place = _place(np.unravel_index(row * columns.shape[1] + int(column), data.shape))
        raise ValueError(
            f"{path} holds {columns[row, column]:g} in {place}, where most values lie within "
            f"{spread[column]:.2g} of {middle[column]:.6g}; leave it out, or train on logarithms"
        )


def _place(index: np.ndarray | tuple[np.intp, ...]) -> str:
    row, *rest = (int(i) for i in index)
    return f"row {row}, column {rest[0]}" if len(rest) == 1 else f"row {row}, pixel {rest}"


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


def integers(data: np.ndarray) -> np.ndarray:
    """Find the columns of vectors [N, d] that hold integers only, bool [d]; of images, one bool for all pixels."""
    return np.asarray((data == np.floor(data)).all(axis=0 if data.ndim == 2 else None))

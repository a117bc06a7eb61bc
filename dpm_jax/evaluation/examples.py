"""Examples that a user has: what a file or a folder of images holds, not yet held against a model."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dpm_jax.data import folder
from dpm_jax.data.arrays import read_table
from dpm_jax.errors import UserError

__all__ = ["Examples", "check_numbers", "load", "read"]


class Examples(NamedTuple):
    """Examples as they were found, not yet held against a model.

    Attributes:
      samples: [n, ...] or one example [...], numbers.
      mask: whatever numpy array the key `mask` held; None where there was none.
      truth: the same of the key `truth`.
      name: what messages call them: the flag and the file, "--inpaint: digits.npz".
      names: of each, where they are images of a folder: their files; else None.
    """

    samples: np.ndarray
    mask: np.ndarray | None
    truth: np.ndarray | None
    name: str
    names: tuple[str, ...] | None = None


def read(path: str, flag: str) -> Examples:
    """Read examples from a `.npz` (keys `samples`; `mask` and `truth`, if there), a `.npy`, a `.csv`, or images.

    Args:
      path: of the file, or of a folder of images of one size.
      flag: that names it, for messages.

    Raises:
      UserError: if there is no such file, or it can't be read, or does not hold numbers.
    """
    if not path:
        raise UserError(f"{flag}: is empty; give a file or a folder of images")
    name = f"{flag}: {path}"
    found = load(path, "samples", name)
    names = found.pop("names", None)
    for key, array in found.items():
        check_numbers(array, name if key == "samples" else f"{name}, key '{key}',")
    return Examples(
        found["samples"], found.get("mask"), found.get("truth"), name, None if names is None else tuple(names)
    )


def load(path: str, needed: str, name: str) -> dict[str, np.ndarray]:
    """Load the arrays of a file by their keys, one of them `needed`; a file without keys is that one.

    Those of a folder of images also have `names`, of the images.

    Args:
      path: as `read`.
      needed: key that must be there.
      name: of the file in messages, with its flag.

    Raises:
      UserError: as `read`.
    """
    if not Path(path).exists():
        raise UserError(f"{name} does not exist")
    try:
        if Path(path).suffix == ".csv":
            return {needed: read_table(path)}
        if Path(path).suffix not in (".npz", ".npy"):
            named = folder.load(Path(path), "refuse", report=print)
            return {needed: _stack(named), "names": np.array([name for name, _ in named])}
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            return {needed: loaded}
        with loaded as archive:
            if needed not in archive:
                raise UserError(f"{name} has no key '{needed}' among {sorted(archive)}")
            return {key: archive[key] for key in ("samples", "mask", "truth") if key in archive}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{name} cannot be read: {error}") from error


def _stack(named: list[tuple[str, np.ndarray]]) -> np.ndarray:
    first, image = named[0]
    for other, another in named:
        if another.shape != image.shape:
            raise ValueError(f"{first} has shape {image.shape} and {other} {another.shape}; give images of one size")
    return np.stack([image for _, image in named])


def check_numbers(array: np.ndarray, name: str) -> None:
    """Refuse what is empty or no real numbers, with a `UserError`."""
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool) or np.iscomplexobj(array):
        raise UserError(f"{name} holds {array.dtype}; real numbers are needed")
    if array.size == 0:
        raise UserError(f"{name} is empty, of shape {array.shape}")

"""Checksums of a checkpoint's files, written beside them before it gets its name: they tell damage from a bad moment.

Whether a checkpoint is damaged is a question about its files. An exception while arrays are read from them answers
another one: it may come from a lack of memory, or from a network.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from dpm_jax.errors import UserError
from dpm_jax.training.storage import is_remote, write_json

__all__ = ["arrays_of", "damage", "write"]

_NAME = "checksums.json"


def arrays_of(tree: Any) -> list[list[Any]]:
    """Return [shape, dtype] of each array of a pytree, in its order."""
    return [[list(leaf.shape), str(leaf.dtype)] for leaf in jax.tree.leaves(tree)]


def write(folder: Path, arrays: list[list[Any]]) -> None:
    """Write the checksums of the arrays' files in `folder`, which are then on the disk for good.

    Args:
      folder: of a checkpoint, complete.
      arrays: what it holds, see `arrays_of`.

    Raises:
      OSError: if a file can't be read.
      UserError: if the checksums can't be written.
    """
    # The files in the folder itself are Orbax's notes, some of them still to be written.
    paths = sorted(path for part in folder.iterdir() if part.is_dir() for path in _below(part))
    files = {str(path.relative_to(folder)): _checksum(path, sync=True) for path in paths}
    write_json(folder / _NAME, {"arrays": arrays, "files": files})


def damage(folder: Path, arrays: list[list[Any]]) -> str | None:
    """Return a line about missing or corrupt files of a checkpoint; None if there are none, or no checksums.

    Args:
      folder: of the checkpoint.
      arrays: what it should hold, see `arrays_of`.

    Raises:
      OSError: if a file is there and can't be read.
      UserError: if it holds other arrays: nothing is damaged, and no other checkpoint of the run will fit.
    """
    try:
        found = json.loads((folder / _NAME).read_text())
        held, files = found["arrays"], dict(found["files"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        return f"{_NAME}: {error}"
    for name, checksum in files.items():
        try:
            if _checksum(folder / name) != checksum:
                return f"{name} is not what was written"
        except FileNotFoundError:
            return f"{name} is missing"
    if held != arrays:
        ours, theirs = next(((a, b) for a, b in zip(arrays, held, strict=False) if a != b), (len(arrays), len(held)))
        raise UserError(f"{folder}: of another model or optimizer: it holds {theirs} where this one has {ours}")
    return None


def _below(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and of those in it, level by level, as buckets want it."""
    for path in folder.iterdir():
        if path.is_dir():
            yield from _below(path)
        else:
            yield path


def _checksum(path: Path, sync: bool = False) -> list[int]:
    """Return the size, and on this machine CRC-32; a bucket checks its objects itself."""
    if is_remote(path):
        stat: Any = path.stat()
        return [int(stat.length)]
    size = crc = 0
    with path.open("rb") as file:
        while block := file.read(2**20):
            size, crc = size + len(block), zlib.crc32(block, crc)
        if sync:
            os.fsync(file.fileno())
    return [size, crc]

"""A workdir describes itself: the config in `config.json`, the data's shape and units in `data.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dpm_jax import config as config_lib
from dpm_jax.data import Source, Standardization
from dpm_jax.errors import UserError
from dpm_jax.storage import is_remote, write_text

__all__ = ["Description", "alone", "check_source", "claim", "read"]


# Of the files of a workdir. To be raised when they change so that an older dpm_jax would misread them.
_FORMAT = 1


class Description(NamedTuple):
    """What a workdir says of itself: all that sampling needs beside a checkpoint."""

    config: ConfigDict
    shape: tuple[int, ...]
    standardization: Standardization


def claim(workdir: Path, config: ConfigDict, source: Source) -> None:
    """Make `workdir` this config's, or see that it is already.

    Raises:
      UserError: if it belongs to another config or other data, or can't be written.
    """
    path = workdir / "config.json"
    if path.exists():
        changed = config_lib.differences(config_lib.load(path), config)
        if changed:
            more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
            raise UserError(f"{workdir}: belongs to another config: {changed[0]}{more}; choose another --workdir")
        check_source(read(workdir), source, workdir)
    ours = source.standardization
    units = {name: np.asarray(getattr(ours, name)).tolist() for name in ("mean", "scale")}
    described = {"format": _FORMAT, "shape": source.shape, **units, "levels": ours.levels}
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        write_text(workdir / "data.json", json.dumps(described) + "\n")
        config_lib.save(config, path)
    except OSError as error:
        raise UserError(f"{workdir}: cannot be written: {error.strerror or error}") from error


@contextmanager
def alone(workdir: Path) -> Iterator[None]:
    """Hold `workdir` for this process; the lock goes with the process, however that ends. Buckets have no locks.

    Raises:
      UserError: if another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no such lock.
        yield
        return
    if is_remote(workdir):
        yield
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / "lock").open("w")
    except OSError as error:
        raise UserError(f"{workdir}: cannot be written: {error.strerror or error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{workdir}: another process is training here; choose another --workdir") from None
        yield


def read(workdir: Path) -> Description:
    """What `claim` wrote.

    Raises:
      UserError: if `workdir` is none of ours, or damaged.
    """
    config = config_lib.load(workdir / "config.json")
    try:
        data = json.loads((workdir / "data.json").read_text())
        if not isinstance(data, dict):
            raise ValueError("not a description")
        if data.get("format", 1) > _FORMAT:
            raise UserError(
                f"{workdir}: is of format {data['format']}, of a newer dpm_jax; this one knows up to {_FORMAT}"
            )
        mean, scale = (jnp.asarray(data[name], jnp.float32) for name in ("mean", "scale"))
        shape = tuple(data["shape"])
        if not all(isinstance(size, int) and size > 0 for size in shape):
            raise ValueError(f"shape {shape}")
        if not (np.isfinite(mean).all() and (np.isfinite(scale) & (np.asarray(scale) > 0)).all()):
            raise ValueError("mean or scale is not finite")
        np.broadcast_to(mean, shape), np.broadcast_to(scale, shape)
        levels = data.get("levels")
        if levels not in (None, 256):
            raise ValueError(f"levels {levels}")
        return Description(config, shape, Standardization(mean, scale, levels))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{workdir / 'data.json'}: missing or damaged: {error}") from error


def check_source(description: Description, source: Source, workdir: Path) -> None:
    """Refuse data of another shape or standardization than the workdir was trained on.

    Raises:
      UserError: naming what differs.
    """
    if source.shape != description.shape:
        raise UserError(f"{workdir}: was trained on data of shape {description.shape}, got {source.shape}")
    if source.standardization.levels != description.standardization.levels:
        raise UserError(f"{workdir}: was trained on pixels, or on real numbers, and these are the other")
    for name in ("mean", "scale"):
        ours, theirs = getattr(source.standardization, name), getattr(description.standardization, name)
        if not np.allclose(ours, theirs, rtol=1e-4, atol=1e-6):
            raise UserError(f"{workdir}: was trained on other data: their {name} was {theirs}, is {ours}")

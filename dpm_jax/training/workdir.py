"""A workdir describes itself: the config in `config.json`, the data's shape and units in `data.json`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from dpm_jax.data import Source, Standardization
from dpm_jax.errors import UserError, writing
from dpm_jax.spectrum import Spectrum
from dpm_jax.training import config as config_lib
from dpm_jax.training.storage import is_remote, move, write_json

__all__ = [
    "DATA_FILE",
    "Description",
    "alone",
    "check_source",
    "claim",
    "data_dir",
    "describe",
    "evaluated",
    "read",
    "results",
]

# The data of a workdir that `dpm_jax.fit` made.
DATA_FILE = "data.npy"


# Of the files of a workdir. To be raised when they change so that an older dpm_jax would misread them.
_FORMAT = 2

# Mean and scale of the same data differ by less, in units of the scale, whatever summed them up.
_SAME = 1e-4


class Description(NamedTuple):
    """Contents of config.json and data.json: all that sampling needs beside a checkpoint."""

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
    if path.exists():
        config_lib.save(config, path)
    else:
        describe(workdir, Description(config, source.shape, source.standardization))


def describe(workdir: Path, description: Description) -> None:
    """Write config.json and data.json.

    Raises:
      UserError: if they can't be written.
    """
    units = description.standardization
    numbers = {name: np.asarray(getattr(units, name)).tolist() for name in ("mean", "scale", "integers")}
    constants = {str(column): value for column, value in units.constants.items()}
    written = {"format": _FORMAT, "shape": description.shape, **numbers, "levels": units.levels, "constants": constants}
    if units.spectrum is not None:
        written["spectrum"] = {name: array.tolist() for name, array in dataclasses.asdict(units.spectrum).items()}
    write_json(workdir / "data.json", written, indent=None)
    config_lib.save(description.config, workdir / "config.json")


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
    with writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / "lock").open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{workdir}: another process is training here; choose another --workdir") from None
        yield


def read(workdir: Path) -> Description:
    """Read the description that `claim` wrote.

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
        shape = tuple(data["shape"])
        if not all(isinstance(size, int) and size > 0 for size in shape):
            raise ValueError(f"shape {shape}")
        mean, scale = (np.asarray(data[name], np.float64) for name in ("mean", "scale"))
        integers = np.asarray(data.get("integers", False), bool)
        constants = {int(column): float(value) for column, value in data.get("constants", {}).items()}
        if not (np.isfinite([*mean.flat, *constants.values()]).all() and (np.isfinite(scale) & (scale > 0)).all()):
            raise ValueError("mean or scale is not finite")
        for array in (mean, scale, integers):
            np.broadcast_to(array, shape)
        levels = data.get("levels")
        if levels not in (None, 256):
            raise ValueError(f"levels {levels}")
        units = Standardization(mean, scale, levels, integers, constants, _spectrum(data.get("spectrum"), shape))
        if constants and not set(constants) <= set(range(units.raw_shape(shape)[-1])):
            raise ValueError(f"constant columns {sorted(constants)}")
        return Description(config, shape, units)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{workdir / 'data.json'}: missing or damaged: {error}") from error


def _spectrum(found: dict[str, Any] | None, shape: tuple[int, ...]) -> Spectrum | None:
    if found is None:
        return None
    log_scale, axes = (np.asarray(found[name], np.float32) for name in ("log_scale", "axes"))
    if log_scale.shape != shape or axes.shape != (shape[-1], shape[-1]):
        raise ValueError(f"spectrum of shape {log_scale.shape}, axes of shape {axes.shape}")
    if not np.isfinite([log_scale.sum(), axes.sum()]).all():
        raise ValueError("spectrum is not finite")
    return Spectrum(log_scale, axes)


def check_source(description: Description, source: Source, workdir: Path) -> None:
    """Refuse data of another shape or standardization than the workdir was trained on.

    Raises:
      UserError: naming what differs.
    """
    if source.shape != description.shape:
        raise UserError(f"{workdir}: was trained on data of shape {description.shape}, got {source.shape}")
    ours, theirs = source.standardization, description.standardization
    if ours.levels != theirs.levels:
        raise UserError(f"{workdir}: was trained on pixels, or on real numbers, and these are the other")
    if (ours.step != theirs.step).any():
        raise UserError(f"{workdir}: was trained with other columns taken for integers: config.data.file.integers")
    if ours.constants != theirs.constants:
        raise UserError(f"{workdir}: was trained without the columns {theirs.constants}, now {ours.constants}")
    for name in ("mean", "scale"):
        # As the model sees it.
        apart = np.atleast_1d(np.abs(getattr(ours, name) - getattr(theirs, name)) / theirs.scale)
        if (apart > _SAME).any():
            where = f" in column {apart.argmax()}" if apart.size > 1 else ""
            raise UserError(
                f"{workdir}: was trained on other data: their {name} differs by {apart.max():.2g} of the scale{where}"
            )
    if ours.spectrum is not None and theirs.spectrum is not None:
        apart = np.abs(ours.spectrum.log_scale - theirs.spectrum.log_scale)
        if apart.max() > _SAME:
            factor = np.exp(apart.max())
            raise UserError(f"{workdir}: was trained on other data: their spectrum differs by a factor of {factor:.3g}")


def data_dir(workdir: Path, given: str | None) -> str | None:
    """Return the folder of a workdir's data files: the given one, or the workdir itself if `dpm_jax.fit` made it."""
    return str(workdir) if given is None and (workdir / DATA_FILE).exists() else given


# What is found out about one checkpoint.
_RESULTS = (
    *("evaluation.json", "evaluation.png", "figure.png", "likelihood.png"),
    *("respacing.json", "respacing.png", "respacing.npz"),
    *("scores.csv", "scores.npz", "comparison.json", "comparison.png"),
)


def results(workdir: Path, step: int, newest: bool = True) -> Path:
    """Return the folder for what is found out about a checkpoint: the workdir itself for the newest, else step_STEP.

    It is made. Files about an older checkpoint that are in the workdir are moved into a folder of that kind, so that
    all files in one folder are about one checkpoint, that of its evaluation.json.

    Raises:
      UserError: if it can't be made, or they can't be moved.
    """
    folder, before = (workdir, evaluated(workdir)) if newest else (workdir / f"step_{step}", None)
    with writing(folder):
        folder.mkdir(exist_ok=True)
        if before not in (None, step):
            for name in _RESULTS:
                if (workdir / name).exists():
                    move(workdir / name, workdir / f"step_{before}" / name)
    return folder


def evaluated(workdir: Path) -> int | None:
    """Return the step that evaluation.json is about; None if there is none that can be read."""
    try:
        step: int = json.loads((workdir / "evaluation.json").read_text())["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return step

"""Train a model on an array, in one call."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from dpm_jax.cli import config_file
from dpm_jax.errors import UserError
from dpm_jax.run import Run, load, quiet
from dpm_jax.training import build, defaults, loop, mesh, saved, storage, warm_start
from dpm_jax.training import workdir as workdir_lib

__all__ = ["fit"]


def fit(
    array: Any,
    workdir: str | Path,
    *,
    config: str | Path | ConfigDict | None = None,
    steps: int | None = None,
    seed: int | None = None,
    init_from: str | Path | None = None,
    report: Callable[[str], None] = print,
) -> Run:
    """Train a model on an array, and return it as `load` does.

    The data are written into the workdir, so that evaluate.py works there. The same call again resumes from the last
    checkpoint; a larger `steps` trains further. A tenth of the examples is held out for evaluation, and of the
    rest 2 % say which checkpoint is the best.

    Args:
      array: bits or vectors [N, d], or images [N, H, W] or [N, H, W, C], pixels uint8 or real numbers. Booleans, and
        vectors of nothing but 0 and 1, are bits. Columns of integers, and images of them, are dequantised.
      workdir: folder of this machine to write to.
      config: a `ConfigDict`; a config file, or the name of one that comes with the package. Its section
        `data` is pointed to the array. By default what suits shape and type of the array, see `training.defaults`.
      steps: of the optimizer; the config's if None.
      seed: of parameters, batches and noise; the config's if None.
      init_from: workdir of another run, from whose averaged parameters a new run starts.
      report: called with lines of progress.

    Raises:
      ValueError: if the array has another shape.
      UserError: if the array does not fit the config, or holds NaN or outliers; or the workdir belongs to other data or
        another config, or cannot be written.
    """
    where = storage.folder(str(workdir))
    if storage.is_remote(where):
        raise UserError(f"{workdir}: fit writes to a folder of this machine; copy it to a bucket afterwards")
    saved.check_trainable(where)
    data = np.asarray(array)
    settings = defaults.for_data(data) if config is None else _read_config(config)
    if data.ndim > 2 and importlib.util.find_spec("grain") is None:
        raise UserError("fit: images need one more package: pip install 'dpm_jax[data]'")
    settings.data.name, settings.data.file.path = "file", workdir_lib.DATA_FILE
    if steps is not None:
        settings.train.steps = steps
    if seed is not None:
        settings.seed = seed
    with quiet(), workdir_lib.alone(where), mesh.over_all_devices(settings.mesh.data, settings.mesh.fsdp):
        _write_data(where, data)
        source = build.source(settings, str(where), report=report)
        built = build.experiment(settings, source.shape, source.standardization)
        initial = None
        if init_from is not None and loop.newest_step(where) is None:
            _, initial = warm_start.params_from(storage.folder(str(init_from)), built)
        workdir_lib.claim(where, settings, source)
        result = loop.train(built, source, where, report=report, initial=initial)
        if result.stopped:
            report(f"stopped at step {result.step} of {settings.train.steps}; the same call resumes from there")
    return load(where)


def _read_config(config: str | Path | ConfigDict) -> ConfigDict:
    """Return a copy of a config that may be given by its file, or by its name."""
    found = config if isinstance(config, ConfigDict) else config_file.read(str(config)).config
    return found.copy_and_resolve_references()


def _write_data(where: Path, data: np.ndarray) -> None:
    """Write the data of a workdir; those of one in use must be the same."""
    path = where / workdir_lib.DATA_FILE
    try:
        if (where / "config.json").exists():
            before = np.load(path, allow_pickle=False) if path.exists() else np.zeros(0)
            if before.dtype != data.dtype or not np.array_equal(before, data):
                raise UserError(f"{where}: belongs to other data; choose another workdir")
            return
        if data.dtype.hasobject:
            raise UserError(f"array: holds {data.dtype}; numbers are needed")
        temporary = path.with_name("data.tmp.npy")
        np.save(temporary, data, allow_pickle=False)
        temporary.replace(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be written or read: {error}") from error

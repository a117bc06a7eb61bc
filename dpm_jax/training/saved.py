"""A small workdir: a config, the data's units, and the averaged parameters alone, in one file of arrays."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax.errors import UserError, writing
from dpm_jax.training.experiment import Experiment, Params

__all__ = ["check_trainable", "is_saved", "load", "save", "step"]

_FILE, _STEP = "params.npz", "step"


def is_saved(folder: Path) -> bool:
    """Return whether the folder holds what `save` wrote, and no checkpoints."""
    return (folder / _FILE).exists() and not (folder / "checkpoints").exists()


def check_trainable(folder: Path) -> None:
    """Refuse to train in a folder that `save` wrote.

    Raises:
      UserError: saying what to do.
    """
    if is_saved(folder):
        raise UserError(
            f"{folder}: holds parameters without the optimizer's state; use --init_from={folder} and another --workdir"
        )


def _by_path(params: Params) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def save(folder: Path, step: int, params: Params, half: bool = False) -> None:
    """Write the parameters of a model into `folder`/params.npz.

    Args:
      folder: with config.json and data.json; it exists.
      step: optimizer steps that they have taken.
      params: the averaged parameters.
      half: whether they are written as float16.

    Raises:
      UserError: if it can't be written.
    """
    file = io.BytesIO()
    dtype = np.float16 if half else None
    arrays: dict[str, Any] = {name: np.asarray(leaf, dtype) for name, leaf in _by_path(params).items()}
    np.savez_compressed(file, **arrays | {_STEP: np.asarray(step)})
    with writing(folder):
        (folder / _FILE).write_bytes(file.getvalue())


def load(folder: Path, experiment: Experiment) -> tuple[int, Params]:
    """Read what `save` wrote.

    Args:
      folder: of the model.
      experiment: what its config describes.

    Returns:
      Step and parameters.

    Raises:
      UserError: if it is missing or damaged, or an array of the experiment is missing or has another shape.
    """
    wanted = jax.eval_shape(experiment.init, jax.random.key(0))
    with _arrays(folder) as arrays:
        leaves = []
        for name, leaf in _by_path(wanted).items():
            if arrays[name].shape != leaf.shape:
                raise ValueError(f"{name} has shape {arrays[name].shape}, and the config's has {leaf.shape}")
            leaves.append(jnp.asarray(arrays[name], leaf.dtype))
        return int(arrays[_STEP]), jax.tree.unflatten(jax.tree.structure(wanted), leaves)


def step(folder: Path) -> int:
    """Return the optimizer steps that parameters written by `save` have taken.

    Raises:
      UserError: if the file is missing or damaged.
    """
    with _arrays(folder) as arrays:
        return int(arrays[_STEP])


@contextmanager
def _arrays(folder: Path) -> Iterator[Any]:
    """Read the file, and refuse it in one line if it, or what is found in it, is not as it should be."""
    path = folder / _FILE
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            yield arrays
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: missing or damaged: {error}") from error

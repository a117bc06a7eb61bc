"""Parameters of another run to start from."""

from __future__ import annotations

from pathlib import Path

import jax

from dpm_jax.errors import UserError
from dpm_jax.training import build, loop, workdir
from dpm_jax.training.checkpoints import Which
from dpm_jax.training.experiment import Experiment, Params

__all__ = ["params_from"]


def params_from(where: Path, experiment: Experiment, which: Which = "newest") -> tuple[int, Params]:
    """Load the averaged parameters of another run, for the first step of a new one.

    Data, schedule, loss and optimizer of the two may differ; the network must have the same arrays. A learned schedule
    that only one of them has is left out, or starts at its base.

    Args:
      where: workdir of the other run.
      experiment: what is to be trained.
      which: checkpoint of the other run.

    Returns:
      Step of the checkpoint; parameters to take in place of the initial ones, by their top-level names.

    Raises:
      UserError: if there is no such checkpoint, or an array of the network is missing or has another shape.
    """
    described = workdir.read(where)
    step, params = loop.load_params(
        build.experiment(described.config, described.shape, described.standardization), where, which=which
    )
    wanted = jax.eval_shape(experiment.init, jax.random.key(0))
    shared = {name: params[name] for name in wanted if name in params}
    ours, theirs = (_shapes({name: tree[name] for name in shared}) for tree in (wanted, shared))
    for name in sorted(ours | theirs):
        if ours.get(name) != theirs.get(name):
            raise UserError(
                f"--init_from: {where}: {name} has shape {theirs.get(name, 'none')}, and this network's has "
                f"{ours.get(name, 'none')}; the two need the same config.network and shape of data"
            )
    return step, shared


def _shapes(params: Params) -> dict[str, tuple[int, ...]]:
    """Return the shape of each array by its path."""
    paths = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in paths}

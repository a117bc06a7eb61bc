"""Trained models as chains of fewer steps: which times, and the experiment that has them."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dpm_jax import respacing
from dpm_jax.ddim import ddim
from dpm_jax.errors import UserError, writing
from dpm_jax.model import Model
from dpm_jax.respacing import Costs
from dpm_jax.training.experiment import Experiment, Params

__all__ = ["Spacing", "load", "save", "shortened", "times"]

Spacing = Literal["uniform", "quadratic", "optimal"]


def shortened(experiment: Experiment, times: np.ndarray | None = None, eta: float | None = None) -> Experiment:
    """Return the experiment whose model goes through these times alone; with `eta` by steps of DDIM.

    Ancestral chains keep the edge that they were trained with: their K is that of `respacing_report`. Those of DDIM
    end in the network's own estimate of x_0, if they have not come down to t = 1.

    Args:
      experiment: what was trained.
      times: int [K], increasing, the last T; all if None.
      eta: of `ddim.ddim`; None for ancestral steps.

    Raises:
      ValueError: as `respacing.respace` and `ddim.ddim`, when the model is made.
    """
    edge: Any = experiment.edge if eta is None else "decoder"

    def model(params: Params) -> Model:
        chain = experiment.model(params)
        if times is not None:
            chain = respacing.respace(chain, times, edge=edge)
        return chain if eta is None else ddim(chain, eta)

    return experiment._replace(model=model)


def times(spacing: Spacing, num: int, num_timesteps: int, table: Path, step: int | None = None) -> np.ndarray:
    """`num` of the times 1..T, int [num].

    Args:
      spacing: "uniform" or "quadratic"; "optimal" by the table of costs that evaluate.py wrote.
      num: how many.
      num_timesteps: T.
      table: where that is.
      step: of the checkpoint that the times are for; None for whatever the table is of.

    Raises:
      UserError: if `num_steps` exceeds T, or the table is missing.
    """
    if not 1 <= num <= num_timesteps:
        raise UserError(f"--num_steps: must lie in 1..{num_timesteps}, the steps of the chain, got {num}")
    if spacing != "optimal":
        return {"uniform": respacing.uniform, "quadratic": respacing.quadratic}[spacing](num_timesteps, num)
    costs = load(table, num_timesteps, step)
    if num > len(costs.times):
        raise UserError(f"--num_steps: {table} has {len(costs.times)} times to choose from, got {num}")
    return respacing.optimal(costs, num).times


def save(costs: Costs, path: Path, step: int) -> None:
    """Write a table of costs as `.npz`, an array a field, and the step of the checkpoint that it is of.

    Raises:
      UserError: if the file can't be written.
    """
    arrays: dict[str, Any] = costs._asdict()
    with writing(path):
        np.savez(path, step=step, **arrays)


def load(path: Path, num_timesteps: int, step: int | None = None) -> Costs:
    """Read the table that `save` wrote for a chain of `num_timesteps` and, if given, for the checkpoint of this step.

    Raises:
      UserError: if it is not there, damaged, or of another chain or checkpoint.
    """
    if not path.exists():
        raise UserError(f"--spacing: 'optimal' needs {path}; run evaluate.py --respacing first")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            costs = Costs(**{name: arrays[name] for name in Costs._fields})
            made_at = int(arrays["step"])
        num = len(costs.times)
        if costs.edge.shape != (num,) or costs.kl.shape != (num, num) or costs.times[-1] != num_timesteps:
            raise ValueError(f"is no table of a chain of {num_timesteps} steps")
    except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: damaged: {error}; run evaluate.py --respacing again") from error
    if step not in (None, made_at):
        raise UserError(
            f"{path}: is of step {made_at}, and the checkpoint of step {step}; run evaluate.py --respacing again"
        )
    return costs

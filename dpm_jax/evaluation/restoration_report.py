"""How well a cold model restores held-out images, time by time, beside leaving them as they are."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dpm_jax.data import Source
from dpm_jax.errors import UserError
from dpm_jax.evaluation.estimate import Estimate
from dpm_jax.evaluation.table import aligned
from dpm_jax.numerics.shapes import chunk_size
from dpm_jax.training import mesh
from dpm_jax.training.experiment import Experiment, Params
from dpm_jax.training.progress import bar

__all__ = ["RestorationReport", "evaluate", "table"]

# Times in the table, at most.
_ROWS = 10


class RestorationReport(NamedTuple):
    """Mean absolute errors a dimension, in units of the data's standard deviation; written to `evaluation.json`.

    Attributes:
      t: [T] times 1..T.
      degraded: [T] of x_t, left as it is.
      restored: [T] of the network's estimate of x_0, means over images.
      mean_restored: over all t, which with the norm "l1" is what is trained.
      num_examples, num_timesteps, step: what was evaluated.
    """

    t: list[int]
    degraded: np.ndarray
    restored: Estimate
    mean_restored: float
    num_examples: int
    num_timesteps: int
    step: int


def evaluate(
    key: Array, experiment: Experiment, params: Params, source: Source, num_examples: int, step: int
) -> RestorationReport:
    """Errors at every t on held-out images.

    Args:
      key: PRNG key of the images and of a random degradation.
      experiment: a cold one.
      params: its parameters.
      source: its data.
      num_examples: how many, at least 2; at most what the source holds back is used.
      step: optimizer steps taken, for the record.

    Raises:
      ValueError: if the experiment is not cold.
      UserError: if a restoration is not finite.
    """
    parts = experiment.cold
    if parts is None:
        raise ValueError("experiment: is not one of cold diffusion")
    data_key, degrade_key = jax.random.split(key)
    x_0 = np.asarray(source.held_out(data_key, num_examples))
    num_timesteps = experiment.num_timesteps

    @jax.jit
    def errors(params: Params, x_0: Array, number: Array) -> tuple[Array, Array]:
        def at_time(t: Array) -> tuple[Array, Array]:
            times = jnp.full(len(x_0), t, jnp.int32)
            x_t = parts.degrade(degrade_key, x_0, times, number)
            restored = parts.restore(params)(x_t, times)
            axes = tuple(range(1, x_0.ndim))
            return jnp.abs(x_t - x_0).mean(axes), jnp.abs(restored - x_0).mean(axes)

        found: tuple[Array, Array] = jax.lax.map(at_time, jnp.arange(1, num_timesteps + 1))
        return mesh.gather(found)

    size = chunk_size(experiment.shape, 4096)
    chunks = [range(first, min(first + size, len(x_0))) for first in range(0, len(x_0), size)]
    found = []
    with bar("evaluating", len(x_0), "example") as shown:
        for rows in chunks:
            part = errors(params, jnp.asarray(x_0[list(rows)]), jnp.asarray(rows))
            found.append(jax.block_until_ready(part))
            shown.update(len(rows))
    degraded, restored = (np.concatenate([np.asarray(part[i], np.float64) for part in found], 1) for i in range(2))
    if lost := int(np.count_nonzero(~np.isfinite(restored).all(axis=0))):
        raise UserError(
            f"restorations of {lost} of {len(x_0)} held-out images are not finite, so there is nothing to report; the "
            "training has diverged"
        )
    return RestorationReport(
        t=list(range(1, num_timesteps + 1)),
        degraded=degraded.mean(1),
        restored=Estimate.of(restored),
        mean_restored=float(restored.mean()),
        num_examples=len(x_0),
        num_timesteps=num_timesteps,
        step=step,
    )


def table(report: RestorationReport) -> str:
    """For the screen."""
    shown = np.unique(np.linspace(0, report.num_timesteps - 1, _ROWS).round().astype(int))
    rows = [(report.t[i], report.degraded[i], report.restored.at(i)) for i in shown]
    title = (
        f"mean absolute errors, {report.num_examples} held-out images, T = {report.num_timesteps}, step {report.step}"
    )
    last = f"restored, mean over t: {report.mean_restored:.4f}; a cold chain has no likelihood, and no K"
    return f"{aligned(title, rows, ('t', 'degraded', 'restored'))}\n  {last}"

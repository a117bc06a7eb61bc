"""Scores of a user's own examples, one number an example, to find outliers; bits, in the data's own units."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax import Array

from dpm_jax.errors import UserError
from dpm_jax.evaluation import examples, observations
from dpm_jax.run import Run
from dpm_jax.units import bits

__all__ = ["ExampleScores", "read", "score", "table", "write"]

# Draws of the noise an example.
_DRAWS = 4
# Examples that the table shows.
_SHOWN = 5


class ExampleScores(NamedTuple):
    """Numbers of each example, [N] float64, in bits of the data's own units; columns of scores.csv.

    Attributes:
      bound_bits: K, the lower bound on the log-likelihood.
      bound_stderr_bits: its standard error, over the noise.
      ais_bits: the log-likelihood by annealed importance sampling; None if not asked for.
      ais_stderr_bits: its standard error.
      bits_per_dim: by K, less is better; None for real numbers.
      bits_per_dim_stderr: its standard error.
    """

    bound_bits: np.ndarray
    bound_stderr_bits: np.ndarray
    ais_bits: np.ndarray | None
    ais_stderr_bits: np.ndarray | None
    bits_per_dim: np.ndarray | None
    bits_per_dim_stderr: np.ndarray | None

    def columns(self) -> dict[str, np.ndarray]:
        """Return those that there are, by name."""
        return {name: values for name, values in self._asdict().items() if values is not None}


def read(path: str, run: Run) -> np.ndarray:
    """Read examples for a model, [N, *shape] float64 in the data's own units.

    Args:
      path: of a `.npy`, a `.npz` (key `samples`), a `.csv`, an image, or a folder of images.
      run: the model, which says what fits.

    Raises:
      UserError: if there is no such file, or it cannot be read, or does not fit the model.
    """
    if run.experiment.is_cold:
        raise UserError("--examples: a cold chain has no likelihood")
    found = examples.read(path, "--examples")
    return observations.fit_examples(found.samples, run.experiment, run.standardization, found.name)[0]


def score(key: Array, run: Run, x: np.ndarray, k: int = 0) -> ExampleScores:
    """Score examples.

    Args:
      key: PRNG key of the noise.
      run: the model.
      x: [N, *shape] of `read`.
      k: trajectories an example of annealed importance sampling; 0 for none.
    """
    bound_key, ais_key = jax.random.split(key)
    bound = run.bound(bound_key, x, num_draws=_DRAWS)
    ais = None if k == 0 else run.log_likelihood(ais_key, x, k=k)
    per_dim = run.bits_per_dim_of(bound) if run.is_discrete else None
    return ExampleScores(
        bound_bits=bits(bound.value),
        bound_stderr_bits=bits(bound.stderr),
        ais_bits=None if ais is None else bits(ais.value),
        ais_stderr_bits=None if ais is None else bits(ais.stderr),
        bits_per_dim=None if per_dim is None else per_dim.value,
        bits_per_dim_stderr=None if per_dim is None else per_dim.stderr,
    )


def write(scores: ExampleScores, step: int, folder: Path) -> list[str]:
    """Write scores.npz, an array a column, and scores.csv, a line an example in the order of the file; return names.

    Args:
      scores: of N examples.
      step: of the checkpoint, for the record in the first.
      folder: to write to.

    Raises:
      UserError: if they cannot be written.
    """
    columns = scores.columns()
    try:
        np.savez(folder / "scores.npz", step=step, **columns)  # type: ignore[arg-type]
        with (folder / "scores.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["index", *columns])
            for index, row in enumerate(zip(*columns.values(), strict=True)):
                writer.writerow([index, *(f"{value:.6g}" for value in row)])
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from error
    return ["scores.npz", "scores.csv"]


def table(scores: ExampleScores) -> str:
    """Return the means, and the examples with the lowest bounds, for the screen."""
    k, stderr = scores.bound_bits, scores.bound_stderr_bits
    lines = [f"bits/example in the data's own units, {len(k)} examples"]
    lines += [f"  {'mean ' + name:<28} {values.mean():>12.4f}" for name, values in scores.columns().items()]
    lines.append("least likely, by K:")
    lines += [f"  {f'example {i}':<28} {k[i]:>12.4f} +- {stderr[i]:.4f}" for i in np.argsort(k)[:_SHOWN]]
    return "\n".join(lines)

"""Scores of a user's own examples, one number an example, to find outliers; bits, in the data's own units."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax import Array

from dpm_jax.errors import UserError, writing
from dpm_jax.evaluation import examples, observations
from dpm_jax.evaluation.estimate import Estimate, keyed
from dpm_jax.evaluation.table import aligned
from dpm_jax.run import Run
from dpm_jax.units import bits

__all__ = ["ExampleScores", "read", "score", "table", "write"]

# Draws of the noise an example.
_DRAWS = 4
# Examples that the table shows.
_SHOWN = 5


class ExampleScores(NamedTuple):
    """Numbers of each example, [N], in bits of the data's own units; columns of scores.csv.

    Attributes:
      bound_bits: K, the lower bound on the log-likelihood; its standard error is over the noise.
      ais_bits: the log-likelihood by annealed importance sampling; unknown if not asked for.
      bits_per_dim: by K, less is better; unknown for real numbers.
      names: of the examples, those of their files, or their numbers.
    """

    bound_bits: Estimate
    ais_bits: Estimate
    bits_per_dim: Estimate
    names: tuple[str, ...]


def _columns(scores: ExampleScores) -> dict[str, np.ndarray]:
    return {name: values for name, values in keyed(scores).items() if values is not None and name != "names"}


def read(path: str, run: Run) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read examples for a model, [N, *shape] float64 in the data's own units, and their names.

    Args:
      path: of a `.npy`, a `.npz` (key `samples`), a `.csv`, an image, or a folder of images.
      run: the model, which says what fits.

    Raises:
      UserError: if there is no such file, or it cannot be read, or does not fit the model.
    """
    if run.experiment.is_cold:
        raise UserError("--examples: a cold chain has no likelihood")
    found = examples.read(path, "--examples")
    x, _ = observations.fit_examples(found.samples, run.experiment, run.standardization, found.name)
    return x, found.names or tuple(map(str, range(len(x))))


def score(key: Array, run: Run, x: np.ndarray, names: tuple[str, ...], k: int = 0) -> ExampleScores:
    """Score examples.

    Args:
      key: PRNG key of the noise.
      run: the model.
      x: [N, *shape] of `read`.
      names: of the examples.
      k: trajectories an example of annealed importance sampling; 0 for none.
    """
    bound_key, ais_key = jax.random.split(key)
    bound = run.bound(bound_key, x, num_draws=_DRAWS)
    return ExampleScores(
        bound_bits=Estimate(*map(bits, bound)),
        ais_bits=Estimate() if k == 0 else Estimate(*map(bits, run.log_likelihood(ais_key, x, k=k))),
        bits_per_dim=Estimate(*run.bits_per_dim_of(bound)) if run.is_discrete else Estimate(),
        names=names,
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
    columns = _columns(scores)
    with writing(folder):
        np.savez(folder / "scores.npz", step=step, names=np.array(scores.names), **columns)  # type: ignore[arg-type]
        with (folder / "scores.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["example", *columns])
            for name, *row in zip(scores.names, *columns.values(), strict=True):
                writer.writerow([name, *(f"{value:.6g}" for value in row)])
    return ["scores.npz", "scores.csv"]


def table(scores: ExampleScores) -> str:
    """Return the means, and the examples with the lowest bounds, for the screen."""
    k = scores.bound_bits
    means = [(f"mean {name}", values.mean()) for name, values in _columns(scores).items()]
    least = [(f"example {scores.names[i]}", k.at(i)) for i in np.argsort(k.mean)[:_SHOWN]]
    title = f"bits/example in the data's own units, {len(k.mean)} examples"
    return f"{aligned(title, means)}\n{aligned('least likely, by K:', least)}"

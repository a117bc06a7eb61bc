"""Draws from posteriors against the truth."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dpm_jax.evaluation.estimate import Estimate
from dpm_jax.evaluation.observations import Observations
from dpm_jax.evaluation.table import aligned

__all__ = ["Scores", "mean_of_draws", "psnr", "score", "table"]


class Scores(NamedTuple):
    """How far from the truth, of each of n observations.

    Attributes:
      measure: what is measured, and over which values, in words.
      num_draws: N, from the posterior of each.
      observed: [n], of the observation itself; None where it has nothing to say (it is hidden).
      single: [n], of a draw, the mean over N.
      mean: [n], of the mean of the draws (of bits, of their majority); None where there is one.
    """

    measure: str
    num_draws: int
    observed: np.ndarray | None
    single: np.ndarray
    mean: np.ndarray | None


def psnr(x: np.ndarray, truth: np.ndarray, where: np.ndarray | None = None, peak: float = 255.0) -> np.ndarray:
    """Peak signal-to-noise ratio in dB, 10 log10(peak^2 / mean squared error), of each image; infinite if equal.

    Args:
      x: [n, *shape].
      truth: [n, *shape].
      where: bool [n, *shape], the values that count; all if None.
      peak: the range of the values, in their unit.

    Returns:
      [n] float64.
    """
    with np.errstate(divide="ignore"):
        result: np.ndarray = 10 * np.log10(peak**2 / _mean_square(x, truth, where))
    return result


def _mean_square(x: np.ndarray, truth: np.ndarray, where: np.ndarray | None) -> np.ndarray:
    error = np.asarray(x, np.float64) - truth
    axes = tuple(range(1, error.ndim))
    result: np.ndarray = np.mean(error**2, axis=axes, where=True if where is None else where)
    return result


def score(observations: Observations, draws: np.ndarray, binary: bool, levels: int | None) -> Scores | None:
    """Draws from the posterior against the truth; None where it is not known.

    Images are scored by PSNR, other vectors by their root mean squared error, bits by the fraction of wrong
    ones (a tie of the majority is half wrong): over the hidden values, or over all where none is.

    Args:
      observations: n of them.
      draws: [n, N, *shape], in the data's own units.
      binary: whether they are bits.
      levels: of pixels; None where they are real numbers, whose peak is the range of the truth.
    """
    truth = observations.truth
    if truth is None:
        return None
    hidden = None if observations.mask.all() else ~observations.mask
    peak = float(levels - 1 if levels else truth.max() - truth.min())
    if binary:
        measure = "fraction of wrong bits"
    elif truth.ndim == 4:
        measure = f"PSNR in dB, peak {peak:g}"
    else:
        measure = "root mean squared error"

    def of(x: np.ndarray) -> np.ndarray:
        if binary:
            # Of bits and ties alike: |1/2 - bit| is a half.
            axes = tuple(range(1, truth.ndim))
            wrong: np.ndarray = np.mean(np.abs(x - truth), axis=axes, where=True if hidden is None else hidden)
            return wrong
        return psnr(x, truth, hidden, peak) if truth.ndim == 4 else np.sqrt(_mean_square(x, truth, hidden))

    num = draws.shape[1]
    mean = mean_of_draws(draws)
    whole = "all values" if hidden is None else "hidden values"
    return Scores(
        f"{measure}, over {whole}",
        num,
        of(observations.y) if hidden is None else None,
        np.mean([of(draws[:, i]) for i in range(num)], axis=0),
        None if num == 1 else of((np.sign(mean - 0.5) + 1) / 2 if binary else mean),
    )


def mean_of_draws(draws: np.ndarray) -> np.ndarray:
    """Average over the draws [n, N, *shape], float64."""
    result: np.ndarray = draws.mean(axis=1, dtype=np.float64)
    return result


def table(scores: Scores) -> str:
    """For the screen."""
    num = len(scores.single)
    rows = [
        ("the observation itself", scores.observed),
        ("a draw" if scores.num_draws == 1 else f"single draws, mean of {scores.num_draws}", scores.single),
        (f"{'majority' if 'bits' in scores.measure else 'mean'} of the {scores.num_draws} draws", scores.mean),
    ]
    title = f"{scores.measure}; {num} observation{'s' if num > 1 else ''}"
    return aligned(title, [(name, Estimate.of(values)) for name, values in rows], number=".4g")

"""Runs as rows: on the screen, as CSV, and what they come to factor by factor."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dpm_jax.errors import writing
from dpm_jax.evaluation.estimate import Estimate
from dpm_jax.units import bits

__all__ = ["Row", "row", "summary", "table", "write_csv"]

DIVERGED = "diverged"


class Row(NamedTuple):
    """One run.

    Attributes:
      factors: what tells it from the others, name -> level.
      k_bits: its K; None if it diverged.
      stderr_bits: its standard error over held-out examples and noise; None if it diverged.
      failed_at: the step at which its loss was not finite; None if it stayed finite.
      seconds: its share of its program's training time.
      megabytes: its share of the memory that XLA plans for its program.
    """

    factors: dict[str, str | int | float]
    k_bits: float | None
    stderr_bits: float | None
    failed_at: int | None
    seconds: float
    megabytes: float


def row(factors: dict[str, str | int | float], k: np.ndarray, failed_at: int, seconds: float, megabytes: float) -> Row:
    """Return a run from what was measured.

    Args:
      factors: as in `Row`.
      k: [N] K of held-out examples, nats; need not be finite.
      failed_at: step at which its loss was not finite; -1 if it stayed finite.
      seconds: as in `Row`.
      megabytes: as in `Row`.
    """
    fine = failed_at < 0 and bool(np.isfinite(k).all())
    mean, stderr = Estimate.of(bits(k)) if fine else Estimate()
    return Row(
        factors=factors,
        k_bits=mean,
        stderr_bits=stderr,
        failed_at=failed_at if failed_at >= 0 else None,
        seconds=seconds,
        megabytes=megabytes,
    )


def _cells(run: Row) -> list[str]:
    if run.k_bits is None or run.stderr_bits is None:
        result = DIVERGED if run.failed_at is None else f"{DIVERGED} at step {run.failed_at}"
    else:
        result = f"{run.k_bits:.3f} +- {run.stderr_bits:.3f}"
    return [*map(str, run.factors.values()), result, f"{run.seconds:.2f}", f"{run.megabytes:.2f}"]


def _aligned(lines: Sequence[Sequence[str]], num_left: int) -> str:
    """Columns side by side, the first `num_left` to the left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < num_left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def table(rows: Sequence[Row]) -> str:
    """All runs, one a line; at least one."""
    factors = list(rows[0].factors)
    return _aligned([[*factors, "K, bits", "s", "MB"], *map(_cells, rows)], len(factors))


def summary(rows: Sequence[Row]) -> str:
    """For each level of each factor: the best K, and median and mean over the runs that did not diverge."""
    lines = [["factor", "level", "best", "median", "mean", DIVERGED]]
    for factor in rows[0].factors:
        for level in dict.fromkeys(run.factors[factor] for run in rows):
            runs = [run for run in rows if run.factors[factor] == level]
            found = [run.k_bits for run in runs if run.k_bits is not None]
            middle = [f"{f(found):.3f}" for f in (max, statistics.median, statistics.fmean)] if found else ["-"] * 3
            lines.append([factor, str(level), *middle, f"{len(runs) - len(found)} of {len(runs)}"])
    found_best = max(rows, key=lambda run: -math.inf if run.k_bits is None else run.k_bits)
    best = ", ".join(f"{name} {level}" for name, level in found_best.factors.items())
    return f"{_aligned(lines, 2)}\nbest of {len(rows)} runs: {best}: K = {_cells(found_best)[-3]}"


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write all runs, numbers in full; K of one that diverged is that word.

    Raises:
      UserError: if the file can't be written.
    """
    with writing(path), path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*rows[0].factors, *Row._fields[1:]])
        for run in rows:
            k = DIVERGED if run.k_bits is None else run.k_bits
            writer.writerow([*run.factors.values(), k, *run[2:]])

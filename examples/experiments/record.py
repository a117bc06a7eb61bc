"""The record of a grid: a JSON file that grows by one program at a time, from which an interrupted grid resumes."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from dpm_jax.errors import UserError
from dpm_jax.training.storage import json_text, write_json
from examples.experiments.table import Row

__all__ = ["Cell", "Outcome", "complete", "peak_megabytes"]

# What tells a program from the others, name -> level.
Cell = dict[str, str | int | float]


class Outcome(NamedTuple):
    """Results of one program, with its time and memory.

    Attributes:
      cell: which it is.
      compile_seconds, train_seconds, evaluate_seconds: wall time; the last with its own compilation.
      megabytes: planned by XLA for the training.
      rows: its runs.
    """

    cell: Cell
    compile_seconds: float
    train_seconds: float
    evaluate_seconds: float
    megabytes: float
    rows: list[Row]


def peak_megabytes() -> float:
    """Return the most memory that this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes on Linux, bytes on macOS.
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _say(text: str) -> None:
    print(text, flush=True)


def complete(
    path: Path,
    settings: dict[str, Any],
    cells: Sequence[Cell],
    run: Callable[[Cell], Outcome],
    report: Callable[[str], None] = _say,
) -> list[Outcome]:
    """Run the cells that `path` does not have yet, and write each as it is finished.

    Args:
      path: JSON; its folder is made.
      settings: what all cells share; plain JSON.
      cells: all of the grid.
      run: one of them.
      report: called with lines of progress.

    Returns:
      All, in the order of `cells`.

    Raises:
      UserError: if `path` is of other settings, damaged, or can't be written.
    """
    outcomes = _read(path, settings)
    for number, cell in enumerate(cells, 1):
        name = ", ".join(f"{factor} {level}" for factor, level in cell.items())
        if any(outcome.cell == cell for outcome in outcomes):
            report(f"{number}/{len(cells)} {name}: in {path} already")
            continue
        outcome = run(cell)
        outcomes.append(outcome)
        _write(path, settings, outcomes)
        report(
            f"{number}/{len(cells)} {name}: {len(outcome.rows)} runs, compiled in {outcome.compile_seconds:.1f} s, "
            f"trained in {outcome.train_seconds:.1f} s, evaluated in {outcome.evaluate_seconds:.1f} s"
        )
    return sorted((o for o in outcomes if o.cell in cells), key=lambda o: cells.index(o.cell))


def _write(path: Path, settings: dict[str, Any], outcomes: Sequence[Outcome]) -> None:
    device = jax.devices()[0].device_kind
    tree = {
        "settings": settings,
        "device": device,
        "peak_resident_megabytes": peak_megabytes(),
        "programs": outcomes,
    }
    write_json(path, tree)


def _read(path: Path, settings: dict[str, Any]) -> list[Outcome]:
    if not path.exists():
        return []
    try:
        tree = json.loads(path.read_text())
        before = tree["settings"]
        programs = [Outcome(**p | {"rows": [Row(**row) for row in p["rows"]]}) for p in tree["programs"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged: {error}") from error
    ours = json.loads(json_text(settings))
    for name in {**before, **ours}:
        if before.get(name) != ours.get(name):
            raise UserError(
                f"{path}: is of other settings: {name} {before.get(name)}, now {ours.get(name)}; choose another --out"
            )
    return programs

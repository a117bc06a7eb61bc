"""Flags that the grids share, and how a grid ends: table, summary, CSV and figure."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dpm_jax.evaluation import plots
from examples.experiments import chart, record, table
from examples.experiments.record import Outcome

__all__ = ["add", "finish", "given"]


def add(parser: ArgumentParser, sizes: dict[str, int]) -> None:
    """Add --out, --quick, --seed, and a flag for each of these sizes."""
    parser.add_argument("--out", type=Path, default=Path("runs/experiments"), help="folder (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="a tiny version, to see that it works")
    parser.add_argument("--seed", type=int, default=0, help="of all runs (%(default)s)")
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, help=f"({value})")


def given(arguments: Namespace, sizes: dict[str, int]) -> dict[str, Any]:
    """Return the sizes, with those that were given in their place, and the seed: the settings of a grid."""
    chosen = {name: getattr(arguments, name) for name in sizes}
    return {"seed": arguments.seed} | {n: sizes[n] if value is None else value for n, value in chosen.items()}


def finish(path: Path, outcomes: Sequence[Outcome], layout: chart.Layout, limit: float, floor: float) -> None:
    """Print the table and the summary, and write them and the figure beside `path`.

    Args:
      path: the record, NAME.json.
      outcomes: of the whole grid.
      layout: of the figure.
      limit: of K, bits.
      floor: lower end of the figure's axis, bits.

    Raises:
      UserError: if a file can't be written.
    """
    rows = [row for outcome in outcomes for row in outcome.rows]
    print(table.table(rows), table.summary(rows), sep="\n\n")
    seconds = {
        name: sum(getattr(outcome, f"{name}_seconds") for outcome in outcomes)
        for name in ("compile", "train", "evaluate")
    }
    took = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    print(f"{len(rows)} runs in {len(outcomes)} programs: {took}; limit of K {limit:.3f} bits")
    print("s: training time of a program / its runs. MB: memory XLA plans for its training / its runs.")
    print(f"peak resident memory of this process: {record.peak_megabytes():.0f} MB")
    table.write_csv(rows, path.with_suffix(".csv"))
    plots.save(chart.multiples(rows, layout, limit, floor), path.with_suffix(".png"))
    print(f"wrote {path}, {path.with_suffix('.csv')} and {path.with_suffix('.png')}")

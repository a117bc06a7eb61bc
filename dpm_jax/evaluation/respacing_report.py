"""K of a trained model in chains of fewer steps, spaced uniformly, quadratically and optimally."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from dpm_jax import respacing
from dpm_jax.data import Source
from dpm_jax.errors import UserError
from dpm_jax.evaluation.estimate import Estimate
from dpm_jax.evaluation.report import check_examples, in_chunks
from dpm_jax.evaluation.short_chains import shortened
from dpm_jax.evaluation.table import aligned
from dpm_jax.respacing import Costs
from dpm_jax.training import mesh
from dpm_jax.training.experiment import Experiment, Params
from dpm_jax.units import bits_per_part

__all__ = ["BUDGETS", "RespacingReport", "Row", "evaluate", "num_examples", "table"]

# Steps that are looked at, as far as they are fewer than T.
BUDGETS = (250, 100, 50, 25, 10)
# Defaults of the table of costs: the numbers of x in all examples together, and the most and the fewest examples.
_NUMBERS, _MOST, _FEWEST = 2**14, 4096, 16
# Times that the best are chosen from. KL terms have heavy tails: many examples choose better than many times.
_CANDIDATES = 300


class Row(NamedTuple):
    """K of one chain, bits of the report's unit.

    Attributes:
      spacing: "all" for the chain of T steps, "uniform", "quadratic" or "optimal".
      num_steps: of the chain.
      bound_bits: K, on fresh examples and noise.
      gain_bits: K - L_null, paired.
      lost_bits: how far below K of all T steps, paired.
      table_bits: what the table says of K; of the optimum too much, it was chosen by it. None where the table
        does not have all of these times.
    """

    spacing: str
    num_steps: int
    bound_bits: Estimate
    gain_bits: Estimate
    lost_bits: Estimate
    table_bits: float | None


class RespacingReport(NamedTuple):
    """K of chains of several lengths; written to `respacing.json`.

    Attributes:
      rows: that of all T steps first.
      unit: of all bits.
      num_examples: that K was evaluated on.
      table_examples: that the table was made of.
      num_timesteps: T.
      step: optimizer steps taken.
    """

    rows: list[Row]
    unit: str
    num_examples: int
    table_examples: int
    num_timesteps: int
    step: int


def num_examples(shape: tuple[int, ...]) -> int:
    """Examples of the table where the user does not say: its time goes with them and their size."""
    return max(_FEWEST, min(_MOST, _NUMBERS // math.prod(shape)))


def evaluate(
    key: Array,
    experiment: Experiment,
    params: Params,
    source: Source,
    num: int,
    table_examples: int,
    step: int,
) -> tuple[RespacingReport, Costs]:
    """Return the table of costs, and K of short chains on other examples.

    Args:
      key: PRNG key of examples and noise.
      experiment: what was trained.
      params: its parameters.
      source: its data; of a finite number of held-out examples, some may be in both parts.
      num: held-out examples that K is evaluated on, at least 2; at most what the source holds back is used.
      table_examples: held-out examples of the table.
      step: optimizer steps taken, for the record.

    Raises:
      UserError: as `report.check_examples`, or if the table is not finite.
    """
    table_key, noise_key, data_key, bound_key = jax.random.split(key, 4)

    @jax.jit
    def costs_of(params: Params, key: Array, x_0: Array) -> Costs:
        model = experiment.model(params)
        candidates = respacing.uniform(model.num_timesteps, min(model.num_timesteps, _CANDIDATES))
        return mesh.gather(
            respacing.costs(key, model, experiment.data(x_0), edge=experiment.edge, candidates=candidates)
        )

    table_x_0 = source.held_out(table_key, check_examples(source, table_examples))
    costs = jax.tree.map(np.asarray, costs_of(params, noise_key, table_x_0))
    num_timesteps = int(costs.times[-1])
    if not np.isfinite(respacing.cost_of(costs, costs.times)):
        raise UserError("--respacing: the bound of this model is not finite")

    x_0 = source.held_out(data_key, check_examples(source, num))
    process: Any = experiment.model(params).process
    null = bits_per_part(process.null_log_prob(x_0), source.shape)

    def k_of(which: Experiment) -> np.ndarray:
        found, _ = in_chunks(bound_key, experiment, which.model, params, x_0, experiment.edge)
        return np.asarray(bits_per_part(found.k, source.shape))

    full = k_of(experiment)

    def row(spacing: str, times: np.ndarray, k: np.ndarray) -> Row:
        in_table = np.isin(times, costs.times).all()
        by_table = float(bits_per_part(-respacing.cost_of(costs, times), source.shape)) if in_table else None
        bound, gain, lost = map(Estimate.of, (k, k - null, full - k))
        return Row(spacing, len(times), bound, gain, lost, by_table)

    rows = [row("all", np.arange(1, num_timesteps + 1), full)]
    budgets = [budget for budget in BUDGETS if budget < num_timesteps]
    best = respacing.optimal_all(costs, budgets[0]) if budgets else []
    for budget in budgets:
        chosen = {
            "uniform": respacing.uniform(num_timesteps, budget),
            "quadratic": respacing.quadratic(num_timesteps, budget),
            "optimal": best[budget - 1].times,
        }
        rows += [row(spacing, times, k_of(shortened(experiment, times))) for spacing, times in chosen.items()]
    return RespacingReport(rows, source.unit, len(x_0), len(table_x_0), num_timesteps, step), costs


def table(report: RespacingReport) -> str:
    """Format the report as a table for the screen."""
    title = (
        f"{report.unit}, {report.num_examples} held-out examples, times chosen by {report.table_examples} others,"
        f" step {report.step}"
    )
    shares = [row.gain_bits.mean / report.rows[0].gain_bits.mean for row in report.rows]
    rows = [
        (row.num_steps, row.spacing, row.bound_bits, row.gain_bits, row.lost_bits, f"{share:>11.1%}")
        for row, share in zip(report.rows, shares, strict=True)
    ]
    return aligned(title, rows, ("steps", "spacing", "K", "K - L_null", "lost by fewer steps", "of the gain"))

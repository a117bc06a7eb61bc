"""Two models of the same data: the difference of their bounds K on the same examples and the same noise."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dpm_jax.data import Source
from dpm_jax.errors import UserError
from dpm_jax.evaluation.estimate import Estimate
from dpm_jax.evaluation.report import check_examples, in_chunks
from dpm_jax.evaluation.table import aligned
from dpm_jax.run import Run
from dpm_jax.units import bits_per_part

__all__ = ["Comparison", "compare", "table"]


class Comparison(NamedTuple):
    """In bits of `unit`; written to comparison.json.

    Attributes:
      names: of the two models.
      steps: of their checkpoints.
      bound_bits: [2] K of each.
      difference_bits: K of the first minus K of the second, paired.
      unit: of all of these.
      num_examples: what was evaluated.
    """

    names: tuple[str, str]
    steps: tuple[int, int]
    bound_bits: Estimate
    difference_bits: Estimate
    unit: str
    num_examples: int


def compare(
    key: Array, runs: tuple[Run, Run], names: tuple[str, str], source: Source, num_examples: int
) -> tuple[Comparison, np.ndarray]:
    """Compare K of two models on held-out examples of their data.

    Args:
      key: PRNG key of the examples and of the noise.
      runs: two models of the source.
      names: of the two, for tables.
      source: the data of both.
      num_examples: at least 2; at most what the source holds back is used.

    Returns:
      The comparison; K of both on each example, [2, N] bits of its unit.

    Raises:
      UserError: if one of them is a cold model; as `report.check_examples`; or if a K is not finite.
    """
    for run, name in zip(runs, names, strict=True):
        if run.experiment.is_cold:
            raise UserError(f"--against: {name} is a cold chain, which has no likelihood")
    data_key, noise_key = jax.random.split(key)
    x_0 = source.held_out(data_key, check_examples(source, num_examples))
    k = np.stack([_bound(noise_key, run, name, source, x_0) for run, name in zip(runs, names, strict=True)])
    result = Comparison(
        names=names,
        steps=(runs[0].step, runs[1].step),
        bound_bits=Estimate.of(k),
        difference_bits=Estimate.of(k[0] - k[1]),
        unit=source.unit,
        num_examples=len(x_0),
    )
    return result, k


def _bound(key: Array, run: Run, name: str, source: Source, x_0: Array) -> np.ndarray:
    """Return K of each example in bits of the source's unit, [N], as a density in the source's units of x."""
    built, ours, theirs = run.experiment, run.standardization, source.standardization
    # The two agree but for rounding, see `workdir.check_source`; what is left of it is taken into account.
    raw = np.asarray(x_0, np.float64) * theirs.scale + theirs.mean
    own = jnp.asarray((raw - ours.mean) / ours.scale, jnp.float32)
    found, _ = in_chunks(key, built, built.model, run.params, own, built.edge)
    k = np.asarray(found.k, np.float64)
    k += float(np.broadcast_to(np.log(theirs.scale / ours.scale), built.shape).sum())
    if lost := int(np.count_nonzero(~np.isfinite(k))):
        raise UserError(f"K of {lost} of {len(k)} held-out examples is not finite with {name}")
    return np.asarray(bits_per_part(k, source.shape))


def table(result: Comparison) -> str:
    """Return the comparison as a table for the screen."""
    rows = [(f"K of {name}", result.bound_bits.at(i)) for i, name in enumerate(result.names)]
    rows.append(("difference, first - second", result.difference_bits))
    return aligned(f"{result.unit}, {result.num_examples} held-out examples, the same noise", rows)

"""Two models of the same data: the difference of their bounds K on the same examples and the same noise."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dpm_jax.data import Source
from dpm_jax.errors import UserError
from dpm_jax.evaluation.report import check_examples, in_chunks, stderr
from dpm_jax.run import Run
from dpm_jax.units import bits, num_parts

__all__ = ["Comparison", "compare", "table"]


class Comparison(NamedTuple):
    """In bits of `unit`; keys of comparison.json, but for the last two.

    Attributes:
      names: of the two models.
      steps: of their checkpoints.
      bound_bits: K of each, means over the examples.
      bound_stderr_bits: their standard errors.
      difference_bits: K of the first minus K of the second, mean over the examples.
      difference_stderr_bits: its standard error, paired.
      unit: of all of these.
      num_examples: what was evaluated.
      first_bits: [N] K of the first.
      second_bits: [N] K of the second.
    """

    names: tuple[str, str]
    steps: tuple[int, int]
    bound_bits: tuple[float, float]
    bound_stderr_bits: tuple[float, float]
    difference_bits: float
    difference_stderr_bits: float
    unit: str
    num_examples: int
    first_bits: np.ndarray
    second_bits: np.ndarray

    def summary(self) -> dict[str, object]:
        """Return all but the arrays, for JSON."""
        return {name: value for name, value in self._asdict().items() if not isinstance(value, np.ndarray)}


def compare(key: Array, runs: tuple[Run, Run], names: tuple[str, str], source: Source, num_examples: int) -> Comparison:
    """Compare K of two models on held-out examples of their data.

    Args:
      key: PRNG key of the examples and of the noise.
      runs: two models of the source.
      names: of the two, for tables.
      source: the data of both.
      num_examples: at least 2; at most what the source holds back is used.

    Raises:
      UserError: if one of them is a cold model; as `report.check_examples`; or if a K is not finite.
    """
    for run, name in zip(runs, names, strict=True):
        if run.experiment.is_cold:
            raise UserError(f"--against: {name} is a cold chain, which has no likelihood")
    data_key, noise_key = jax.random.split(key)
    x_0 = source.held_out(data_key, check_examples(source, num_examples))
    k = [_bound(noise_key, run, name, source, x_0) for run, name in zip(runs, names, strict=True)]
    return Comparison(
        names=names,
        steps=(runs[0].step, runs[1].step),
        bound_bits=(float(k[0].mean()), float(k[1].mean())),
        bound_stderr_bits=(stderr(k[0]), stderr(k[1])),
        difference_bits=float((k[0] - k[1]).mean()),
        difference_stderr_bits=stderr(k[0] - k[1]),
        unit=source.unit,
        num_examples=len(x_0),
        first_bits=k[0],
        second_bits=k[1],
    )


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
    return np.asarray(bits(k) / num_parts(source.shape))


def table(result: Comparison) -> str:
    """Return the comparison as a table for the screen."""
    width = max(32, *(len(name) + 4 for name in result.names))
    rows = [
        (f"K of {name}", value, error)
        for name, value, error in zip(result.names, result.bound_bits, result.bound_stderr_bits, strict=True)
    ]
    rows.append(("difference, first - second", result.difference_bits, result.difference_stderr_bits))
    lines = [f"{result.unit}, {result.num_examples} held-out examples, the same noise"]
    return "\n".join(lines + [f"  {name:<{width}} {value:>10.4f} +- {error:.4f}" for name, value, error in rows])

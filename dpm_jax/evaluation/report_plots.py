"""Pictures of reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np

from dpm_jax.evaluation.comparison import Comparison
from dpm_jax.evaluation.likelihood_report import LikelihoodReport
from dpm_jax.evaluation.plots import BLUE, INK, RED
from dpm_jax.evaluation.report import Report
from dpm_jax.evaluation.respacing_report import RespacingReport
from dpm_jax.evaluation.restoration_report import RestorationReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["comparison", "likelihood", "per_step_kl", "respacing", "restoration"]


def per_step_kl(report: Report, log_nsr: np.ndarray) -> Figure:
    """Draw the KL of each reverse step against t, and what it sums to from T down.

    Args:
      report: of K.
      log_nsr: [T + 1] log noise-to-signal ratios of the schedule.
    """
    kl, unit = report.per_step_kl_bits, report.unit
    t = np.arange(2, len(kl))
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    left.plot(t, kl[2:], color=BLUE, marker="." if len(t) < 60 else None)
    left.set(xlabel="t", ylabel=f"KL of the step ({unit})", title="Where the bound is spent")
    right.plot(log_nsr[2:] / np.log(10), np.cumsum(kl[2:]), color=BLUE)
    right.set(xlabel=r"$\log_{10} \nu_t$ (noise-to-signal ratio)", ylabel=f"sum over s = 2..t ({unit})")
    right.set_title("The same against the noise level")
    return figure


def comparison(report: Comparison, k: np.ndarray) -> Figure:
    """Draw K of two models on the same examples, [2, N] bits, against each other, and their differences."""
    (first, second), names, unit = k, report.names, report.unit
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    ends = [k.min(), k.max()]
    left.plot(ends, ends, color=INK, lw=0.8)
    left.scatter(second, first, s=4, color=BLUE, alpha=0.5, linewidths=0)
    left.set(xlabel=f"K of {names[1]} ({unit})", ylabel=f"K of {names[0]} ({unit})", title="Each example")
    mean = report.difference_bits.mean
    right.hist(first - second, bins=min(60, max(10, len(first) // 10)), color=BLUE, alpha=0.7)
    right.axvline(0, color=INK, lw=0.8)
    right.axvline(mean, color=RED, lw=1.5, label=f"mean {mean:.4f}")
    right.set(xlabel=f"K of the first - K of the second ({unit})", ylabel="examples", title="Paired differences")
    right.legend()
    return figure


def restoration(report: RestorationReport) -> Figure:
    """Draw mean absolute errors of degraded and of restored images at each t."""
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    axes.plot(report.t, report.degraded, color=INK, label="degraded, left as they are")
    axes.plot(report.t, report.restored.mean, color=BLUE, label="restored")
    axes.set(xlabel="t", ylabel="mean absolute error, standard deviations", ylim=(0, None))
    axes.legend()
    return figure


def likelihood(report: LikelihoodReport, unit: str) -> Figure:
    """Draw AIS against k, its sandwich on the model's samples, and the entropies of the reverse steps."""
    r = report
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
    left.axhline(0, color=INK, linewidth=0.8)
    left.errorbar(r.ais_k, *r.ais_gain_bits, color=BLUE, marker="o", capsize=3)
    marks = (("limit", "--", r.entropy_production_bits), ("exact", ":", r.ais_to_exact_bits.at(0)))
    for name, style, (mean, stderr) in marks:
        if mean is not None:
            left.axhspan(mean - stderr, mean + stderr, color=INK, alpha=0.08, linewidth=0)
            left.axhline(mean, color=INK, linestyle=style, linewidth=1, label=f"{name}, ± standard error")
            left.legend(loc="best")
    left.set(xscale="log", xlabel="trajectories k", ylabel=f"above K ({unit})", title="AIS on held-out data")
    # Samples differ in their likelihood by far more than the bounds do, which are of the same samples.
    lower, upper = r.sandwich.lower_bits.mean, r.sandwich.upper_bits.mean
    middle.fill_between(r.ais_k, lower, upper, color=BLUE, alpha=0.15, linewidth=0)
    middle.plot(r.ais_k, upper, color=RED, marker="v", label="upper")
    middle.plot(r.ais_k, lower, color=BLUE, marker="^", label="lower")
    middle.legend(loc="best", title=f"{upper[-1] - lower[-1]:.1g} apart at k = {r.ais_k[-1]}")
    middle.set(xscale="log", xlabel="trajectories k", ylabel=f"log-likelihood ({unit})", title="Samples of the model")
    found, t = r.entropy_bounds_bits, np.arange(2, len(r.entropy_bounds_bits.lower))
    above = found.upper[2:] - found.lower[2:]
    right.fill_between(t, 0, above, color=BLUE, alpha=0.15, linewidth=0, label="between bounds")
    right.plot(t, found.model[2:] - found.lower[2:], color=BLUE, label="model")
    if found.true is not None:
        true = found.true.bits - found.lower[found.true.t]
        right.plot(found.true.t, true, color=INK, marker="o", markersize=3, linestyle="", label="true")
    right.legend(loc="best")
    right.set(xlabel="t", ylabel=f"above the lower bound ({unit})", title="Entropy of the reverse step")
    return figure


def respacing(report: RespacingReport) -> Figure:
    """Draw K against the number of steps of the chain, a line a spacing."""
    full, rest = report.rows[0], report.rows[1:]
    best, null = full.bound_bits.mean, full.bound_bits.mean - full.gain_bits.mean
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    axes.axhline(best, color=INK, linewidth=0.8, label=f"all T = {full.num_steps} steps")
    names = dict.fromkeys(row.spacing for row in rest)
    for name, colour, marker in zip(names, (INK, RED, BLUE), "sv^", strict=False):
        line = [(row.num_steps, *row.bound_bits) for row in rest if row.spacing == name]
        x, y, error = np.transpose(line)
        axes.errorbar(x, y, error, color=colour, marker=marker, capsize=3, label=name)
    # A chain that is worse than none at all would hide what there is to see of the others.
    lowest = max(min(row.bound_bits.mean for row in report.rows), null)
    axes.set_ylim(bottom=lowest - 0.05 * max(best - lowest, 1e-6))
    axes.set(xscale="log", xlabel="steps of the chain", ylabel=f"lower bound ({report.unit})")
    axes.set_title("K of the same network with fewer steps")
    axes.legend(loc="lower right")
    return figure

"""The tables, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from examples.paper.systems import DEAD_LEAVES, PARZEN, SYSTEMS

__all__ = ["text"]


def text(results: Mapping[str, Mapping[str, Any]], machine: str) -> str:
    """Return the paper's tables 1 and 2 with the results beside them, of those systems that have any.

    Args:
      results: config -> what its evaluation.json holds, with the `minutes` of the whole training command,
        None where it had been stopped and was resumed.
      machine: what they were trained on.
    """
    shown = [system for system in SYSTEMS if system.config in results]
    header = ("", "K", "K - L_null", "bits/dim", "limit - K", "paper: K", "paper: K - L_null", "minutes")
    rows = []
    for system in shown:
        found = results[system.config]
        rows.append(
            (
                f"{system.title}, {system.unit}",
                _estimate(found, "bound_bits", "bound_stderr_bits"),
                _estimate(found, "gain_bits", "gain_stderr_bits"),
                _estimate(found, "discrete_bits_per_dim", "discrete_stderr"),
                _estimate(found, "gap_bits", "gap_stderr_bits"),
                system.k or "",
                system.gain or "",
                "resumed" if found["minutes"] is None else f"{found['minutes']:.1f}",
            )
        )
    parts = ["**Table 1**", _table(header, rows)]
    if "gaussian_gain" in results.get("bark", {}):
        best = _estimate(results["bark"]["gaussian_gain"], "mean", "stderr")
        parts.append(f"Best Gaussian model of 16 x 16 patches of the same photograph, K - L_null: {best} bits/pixel.")
    compared = []
    if "dead_leaves" in results:
        ours = ("this library", _estimate(results["dead_leaves"], "bound_bits", "bound_stderr_bits"))
        compared += [("Dead leaves, log-likelihood, bits/pixel", *row) for row in (*DEAD_LEAVES, ours)]
    parzen = results.get("mnist", {}).get("parzen")
    if parzen:
        titles = {"model": "this library", "training": "training images in the samples' place"}
        ours = [(title, _estimate(parzen[name], "bits", "stderr_bits")) for name, title in titles.items()]
        compared += [("MNIST, Parzen-window estimate, bits", *row) for row in (*PARZEN, *ours)]
    if compared:
        parts += ["**Table 2**", _table(("", "model", "estimate"), compared)]
    return "\n\n".join([*parts, f"On {machine}."]) + "\n"


def _estimate(found: Mapping[str, Any], mean: str, stderr: str) -> str:
    if found.get(mean) is None:
        return ""
    return f"{found[mean]:.3f}" + ("" if found.get(stderr) is None else f" ± {found[stderr]:.3f}")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)

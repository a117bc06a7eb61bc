"""What a train step costs, as XLA counts it, before anything is run."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from dpm_jax.experiment import Experiment
from dpm_jax.training import step as step_lib
from dpm_jax.training.feed import Feed
from dpm_jax.training.step import TrainState

__all__ = ["PEAKS", "Cost", "measure", "peak", "table"]

# FLOP/s of one device at its matrix units' best, bfloat16, as its maker says; by a part of `device_kind`.
PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "A100": 312e12,
    "H100": 989e12,
    "H200": 989e12,
}


class Cost(NamedTuple):
    """Of one optimizer step, on each device.

    Attributes:
      flops: floating-point operations.
      arguments: bytes of state and batches that are put in.
      temporary: bytes besides, while it runs.
      num_devices: how many of them.
    """

    flops: float
    arguments: int
    temporary: int
    num_devices: int


def peak(device_kind: str) -> float | None:
    """FLOP/s of a device at its best; None where it is not known."""
    return next((value for name, value in PEAKS.items() if name in device_kind), None)


def measure(experiment: Experiment, data: Feed, state: TrainState) -> Cost:
    """Compile the train step, and ask XLA.

    Args:
      experiment: what would be trained.
      data: its feed; a batch is taken.
      state: shapes, dtypes and places of the state.
    """
    run_steps: Any = step_lib.make_run_steps(experiment, data.draw)
    compiled = run_steps.lower(state, 1, data.take(1)).compile()
    plan, counted = compiled.memory_analysis(), compiled.cost_analysis() or {}
    # XLA counts the body of a loop once: a step.
    flops = float(counted.get("flops", float("nan")))
    return Cost(flops, int(plan.argument_size_in_bytes), int(plan.temp_size_in_bytes), jax.device_count())


def table(cost: Cost, batch_size: int) -> str:
    """For the screen."""
    lines = [
        f"a step of {batch_size} examples on {cost.num_devices} x {jax.devices()[0].device_kind}, of each device:",
        f"  {cost.flops:.3g} FLOP; {cost.arguments / 2**20:,.1f} MiB of state and batches, "
        f"{cost.temporary / 2**20:,.1f} MiB besides",
        "  at the very best, if all of it were matrix products in bfloat16:",
        *(f"    {name:<12} {1e3 * cost.flops / value:>10.3g} ms a step" for name, value in PEAKS.items()),
    ]
    return "\n".join(lines)

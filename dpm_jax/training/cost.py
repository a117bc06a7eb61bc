"""The cost of a train step before it runs, and the share of a chip's peak that it reaches."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dpm_jax.training import flops
from dpm_jax.training import step as step_lib
from dpm_jax.training.experiment import Experiment
from dpm_jax.training.feed import Feed
from dpm_jax.training.step import TrainState

__all__ = ["CHIPS", "Chip", "Cost", "chip", "measure", "step_flops", "table"]


class Chip(NamedTuple):
    """Peak rates of a device, as its maker states them.

    Attributes:
      flops: operations a second of its matrix units, bfloat16.
      bandwidth: bytes a second to and from its memory.
    """

    flops: float
    bandwidth: float


# As JAX names TPUs, of which some have two names; of GPUs a part of the name.
CHIPS = {
    "TPU v4": Chip(275e12, 1228e9),
    "TPU v5 lite": Chip(197e12, 819e9),
    "TPU v5p": Chip(459e12, 2765e9),
    "TPU v6 lite": Chip(918e12, 1640e9),
    "A100": Chip(312e12, 2039e9),
    "H100": Chip(989e12, 3350e9),
    "H200": Chip(989e12, 4800e9),
}
_ALSO = {"TPU v5e": "TPU v5 lite", "TPU v5": "TPU v5p", "TPU v6e": "TPU v6 lite"}


class Cost(NamedTuple):
    """Cost of one optimizer step, on each device.

    Attributes:
      flops: operations of matrix products and convolutions; see `flops.count`.
      xla_flops: operations of all kinds, as XLA counts them for this backend: the body of a loop once.
      traffic: bytes that go to and from memory, as XLA counts them.
      arguments: bytes of state and batches that are put in.
      temporary: bytes besides, while it runs.
      num_devices: how many of them.
    """

    flops: float
    xla_flops: float
    traffic: float
    arguments: int
    temporary: int
    num_devices: int


def chip(device_kind: str) -> Chip | None:
    """Return the peak rates of a device; None if it is unknown."""
    if device_kind.startswith("TPU"):
        return CHIPS.get(_ALSO.get(device_kind, device_kind))
    return next((value for name, value in CHIPS.items() if name in device_kind), None)


def step_flops(experiment: Experiment, state: TrainState) -> float:
    """Operations of one optimizer step, on all devices together; state may be shapes and dtypes."""
    x_0 = jax.ShapeDtypeStruct((experiment.train.batch_size, *experiment.shape), jnp.float32)
    return flops.count(partial(step_lib.train_step, experiment), state, jax.random.key(0), x_0)


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
    num = jax.device_count()
    return Cost(
        flops=step_flops(experiment, state) / num,
        # The steps of a dispatch are a loop.
        xla_flops=float(counted.get("flops", float("nan"))),
        traffic=float(counted.get("bytes accessed", float("nan"))),
        arguments=int(plan.argument_size_in_bytes),
        temporary=int(plan.temp_size_in_bytes),
        num_devices=num,
    )


def table(cost: Cost, batch_size: int) -> str:
    """For the screen."""
    lines = [
        f"a step of {batch_size} examples on {cost.num_devices} x {jax.devices()[0].device_kind}, of each device:",
        f"  {cost.flops:.3g} FLOP in matrix products and convolutions; {cost.xla_flops:.3g} of all kinds as XLA counts "
        "them, bodies of loops once",
        f"  {cost.arguments / 2**20:,.1f} MiB of state and batches, {cost.temporary / 2**20:,.1f} MiB besides; "
        f"{cost.traffic / 2**20:,.1f} MiB to and from memory, as XLA counts them",
        "  an estimate for one device, of its peak in bfloat16 and that traffic, whichever takes longer:",
    ]
    for name, best in CHIPS.items():
        computing, moving = cost.flops / best.flops, cost.traffic / best.bandwidth
        slower = max(computing, moving)
        lines.append(f"    {name:<12} {1e3 * slower:>9.3g} ms a step, utilization {100 * computing / slower:>5.1f} %")
    return "\n".join(lines)

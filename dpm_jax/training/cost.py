"""The cost of a program before it runs, and the share of a chip's peak that it can reach."""

from __future__ import annotations

import math
import time
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dpm_jax.errors import UserError
from dpm_jax.training import flops, hlo
from dpm_jax.training import step as step_lib
from dpm_jax.training.chips import CHIPS, Chip, chip
from dpm_jax.training.experiment import Experiment
from dpm_jax.training.hlo import Collective, Part, Product
from dpm_jax.training.programs import Program
from dpm_jax.training.step import TrainState

__all__ = ["Cost", "compiled", "measure", "step_flops", "table"]

# How many parts of a program the table has.
_NUM_PARTS = 12


class Cost(NamedTuple):
    """Cost of a program, on each device.

    Attributes:
      flops: operations of matrix products and convolutions; see `flops.count`.
      passes: the same, each counted as often as a TPU goes through its matrix units for its precision.
      xla_flops: operations of all kinds, as XLA counts them for the backend: the body of a loop once.
      traffic: bytes that go to and from memory, as XLA counts them: on TPUs with those that stay on the chip.
      memory: of these, bytes that leave the chip; as many as `traffic` where the compiler does not say. In the bodies
        of loops none.
      cycles: of the chip's clock, as the compiler estimates; 0 where it does not.
      parts: of the program, see `hlo.Part`.
      arguments: bytes that are put in, such as state and batches.
      temporary: bytes besides, while it runs, its results where they do not take the place of arguments.
      collectives: what devices send each other.
      products: matrix products and convolutions, by type and precision.
      num_devices: how many of them.
      device_kind: as JAX names it.
      seconds: that compilation took.
    """

    flops: float
    passes: float
    xla_flops: float
    traffic: float
    memory: float
    cycles: int
    parts: tuple[Part, ...]
    arguments: int
    temporary: int
    collectives: tuple[Collective, ...]
    products: tuple[Product, ...]
    num_devices: int
    device_kind: str
    seconds: float


def step_flops(experiment: Experiment, state: TrainState) -> float:
    """Operations of one optimizer step, on all devices together; state may be shapes and dtypes."""
    x_0 = jax.ShapeDtypeStruct((experiment.train.batch_size, *experiment.shape), jnp.float32)
    return flops.count(partial(step_lib.train_step, experiment), state, jax.random.key(0), x_0)


def compiled(program: Program, devices: list[Any] | None = None) -> jax.stages.Compiled:
    """Compile a program, see `measure`."""
    found = jax.devices() if devices is None else devices
    lowered = jax.jit(program.function, donate_argnums=program.donated).lower(*program.arguments)
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        said = str(error).split("RESOURCE_EXHAUSTED: ", 1)[1].splitlines()[0]
        raise UserError(
            f"{program.title} does not fit on {len(found)} x {found[0].device_kind}: {said} Take more chips, or raise "
            "mesh.fsdp or train.accumulate, or set network.unet.remat"
        ) from None


def measure(program: Program, devices: list[Any] | None = None) -> Cost:
    """Compile a program, and ask XLA.

    Args:
      program: what would run.
      devices: of a `pod`, whose mesh is set; those that are here if None.

    Raises:
      UserError: if it needs more memory than the devices have.
    """
    found = jax.devices() if devices is None else devices
    count = partial(flops.count, program.function, *program.arguments)
    begin = time.perf_counter()
    made = compiled(program, devices)
    seconds = time.perf_counter() - begin
    plan: Any
    plan, counted = made.memory_analysis(), made.cost_analysis() or {}
    text = made.as_text() or ""
    operations = hlo.operations(text)
    cycles, traffic = sum(operation.cycles for operation in operations), float(counted.get("bytes accessed", math.nan))
    return Cost(
        flops=count() / len(found),
        passes=count(passes=True) / len(found),
        xla_flops=float(counted.get("flops", math.nan)),
        traffic=traffic,
        memory=float(sum(operation.num_bytes for operation in operations)) if cycles else traffic,
        cycles=cycles,
        parts=hlo.parts(operations),
        arguments=int(plan.argument_size_in_bytes),
        temporary=int(plan.temp_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes),
        collectives=hlo.collectives(text),
        products=hlo.products(text),
        num_devices=len(found),
        device_kind=found[0].device_kind,
        seconds=seconds,
    )


def table(program: Program, cost: Cost) -> str:
    """For the screen."""
    known = chip(cost.device_kind)
    lines = [
        f"{program.title} on {cost.num_devices} x {cost.device_kind}, compiled in {cost.seconds:.0f} s; each device:",
        f"  {cost.flops:.3g} FLOP in matrix products and convolutions; {cost.xla_flops:.3g} of all kinds as XLA counts "
        "them, bodies of loops once",
        f"  {cost.arguments / 2**20:,.1f} MiB of arguments, {cost.temporary / 2**20:,.1f} MiB besides"
        + (f", of {known.memory / 2**20:,.0f} MiB" if known else "")
        + f"; {cost.traffic / 2**20:,.1f} MiB read and written, as XLA counts them",
    ]
    for kind in cost.collectives:
        lines.append(f"  {kind.num} x {kind.name}, {kind.num_bytes / 2**20:,.3g} MiB")
    if known and cost.products:
        kinds = (f"{kind.num} of {kind.dtype} at precision {kind.precision}" for kind in cost.products)
        lines.append(f"  products: {', '.join(kinds)}")
    if known:
        return "\n".join([*lines, *_roofline(cost, known)])
    lines.append("  an estimate for one device, of its peak in bfloat16 and that traffic, whichever takes longer:")
    for name, best in CHIPS.items():
        slower = max(cost.flops / best.flops, cost.traffic / best.bandwidth)
        share = 100 * cost.flops / best.flops / slower
        lines.append(f"    {name:<12} {1e3 * slower:>9.3g} ms, utilization {share:>5.1f} %")
    return "\n".join(lines)


def _roofline(cost: Cost, best: Chip) -> list[str]:
    """Lines of what the device's rates allow, and of what the compiler expects."""
    limits = {
        "compute": (cost.passes / best.flops, "at the peak of its matrix units, for the precision of each product"),
        "memory": (cost.memory / best.bandwidth, f"to move {cost.memory / 2**20:,.1f} MiB to and from its memory"),
    }
    if best.link:
        # Around one ring, both ways; a reduction goes around twice.
        sent = sum(kind.num_bytes * (2 if kind.name == "all-reduce" else 1) for kind in cost.collectives)
        limits["links"] = (sent / (2 * best.link), "to send those over the links between chips, around one ring")
    bound, (slowest, _) = max(limits.items(), key=lambda item: item[1][0])
    lines = [f"  {1e3 * seconds:>9.3g} ms {what}" for seconds, what in limits.values()]
    lines.append(f"  at best {_rate(cost, best, slowest)}; bound by {bound}")
    if best.clock and cost.cycles:
        expected = _rate(cost, best, cost.cycles / best.clock)
        lines.append(f"  {expected}, by the compiler's estimate of each operation, links aside:")
        for part in cost.parts[:_NUM_PARTS]:
            share = 100 * part.cycles / cost.cycles
            lines.append(
                f"  {1e3 * part.cycles / best.clock:>9.3g} ms {share:>5.1f} % {part.num_bytes / 2**20:>9,.1f} MiB  "
                f"{part.num:>4} x {part.name}"
            )
    return lines


def _rate(cost: Cost, best: Chip, seconds: float) -> str:
    share = 100 * cost.flops / best.flops / seconds
    return f"{1e3 * seconds:.3g} ms, {1 / seconds:,.0f} a second, {share:.1f} % of peak in bfloat16"

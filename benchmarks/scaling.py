"""How time and memory go with T, with the batch, with the size of the image, and with the number of devices.

  python -m benchmarks.scaling

Devices are forced ones, that share the cores of this machine: what their table can tell is what it costs to cut a step
up, not what there is to be gained, which takes as many real ones.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import jax
from jax import Array
from ml_collections import ConfigDict

from benchmarks.tables import ROOT, Table, figure
from benchmarks.timing import in_turn, seconds, settled
from benchmarks.train_step import ours, source_of
from dpm_jax import sampling
from dpm_jax.configs import dead_leaves, mnist, swiss_roll
from dpm_jax.training import build, mesh, step
from dpm_jax.training.experiment import Params

TIMESTEPS = (10, 100, 1000, 10_000)
BATCHES = {"swiss_roll": (16, 64, 256, 1024, 4096), "mnist": (4, 16, 64, 256)}
SIZES = (16, 32, 64, 128)
DEVICES = (1, 2, 4, 8)
ROUNDS = 3
REPEATS = 5
SECONDS = 0.5
_MIB = 2**20
_COMMAND = "python -m benchmarks.scaling"


def _trainer(config: ConfigDict) -> Callable[[int], Any]:
    source = source_of(config)
    return ours(build.experiment(config, source.shape), source)


def _a_step(run: Callable[[int], Any]) -> float:
    """Seconds a train step: median of some dispatches of some length."""
    seconds(lambda: run(1))
    num = max(1, round(SECONDS / seconds(lambda: run(1))))
    num = max(1, round(num * SECONDS / seconds(lambda: run(num))))
    return median(seconds(lambda: run(num)) for _ in range(REPEATS)) / num


def over_timesteps() -> Table:
    """Measure the swiss roll's network with longer and longer chains."""
    rows = []
    for num_timesteps in TIMESTEPS:
        config = swiss_roll.get_config()
        config.num_timesteps = num_timesteps
        built = build.experiment(config, (2,))
        params = step.init(built).params

        def draw(params: Params, key: Array) -> Array:
            return sampling.sample(key, built.model(params), 1024, (2,))  # noqa: B023

        lowered = jax.jit(draw).lower(params, jax.random.key(0))
        start = time.perf_counter()
        compiled = lowered.compile()
        compiling = time.perf_counter() - start
        plan: Any = compiled.memory_analysis()
        sampling_step = in_turn([partial(compiled, params, jax.random.key(0))], 3).medians[0] / num_timesteps
        rows.append(
            [
                f"{num_timesteps:,}",
                f"{figure(compiling)} s",
                f"{plan.temp_size_in_bytes / _MIB:.2f} MiB",
                f"{figure(1e3 * sampling_step)} ms",
                f"{figure(1e3 * _a_step(_trainer(config)))} ms",
            ]
        )
        print(*rows[-1], flush=True)
    header = ("T", "compiling the sampler", "its buffers", "a reverse step", "a train step")
    return Table("scaling_timesteps", _COMMAND, header, rows, "The swiss roll, 1024 samples.")


def over_batch() -> Table:
    """Examples a second of train steps on larger and larger batches."""
    rows = []
    for module, name in ((swiss_roll, "swiss_roll"), (mnist, "mnist")):
        for batch in BATCHES[name]:
            config = module.get_config()
            config.train.batch_size = batch
            taken = _a_step(_trainer(config))
            rows.append([f"`{name}`", str(batch), f"{figure(1e3 * taken)} ms", figure(batch / taken)])
            print(*rows[-1], flush=True)
    return Table("scaling_batch", _COMMAND, ("config", "batch", "a train step", "examples/s"), rows)


def over_size() -> Table:
    """Train steps on larger and larger images: the multiscale network, whose cost goes with the pixels."""
    rows = []
    for size in SIZES:
        config = dead_leaves.get_config()
        config.train.batch_size = 8
        # Random pixels in place of files, so that generating dead leaves is not what is timed.
        config.data.name, config.data.folder.path, config.data.crop = "folder", "none", size
        taken = _a_step(_trainer(config))
        rows.append([f"{size} x {size}", f"{figure(1e3 * taken)} ms", f"{figure(1e6 * taken / 8 / size**2)} us"])
        print(*rows[-1], flush=True)
    note = "The network of `dead_leaves`, three scales, batch 8."
    return Table("scaling_size", _COMMAND, ("images", "a train step", "a pixel"), rows, note)


def _child() -> None:
    """Print what a train step takes on the devices of this process."""
    with mesh.over_all_devices():
        for module, size in ((swiss_roll, 1024), (mnist, 64)):
            config = module.get_config()
            config.train.batch_size = size
            print(_a_step(_trainer(config)))


def _on_devices(num: int) -> list[float]:
    """Run a process with this number of devices, and return the seconds of a step that it prints."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={num}",
    }
    command = [sys.executable, "-m", "benchmarks.scaling", "--child"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    return [float(line) for line in done.stdout.split()]


def over_devices() -> Table:
    """Measure the same steps on one batch, cut up among forced devices; one process after another, in turn."""
    rounds = [[_on_devices(num) for num in reversed(DEVICES)] for _ in range(ROUNDS)]
    # One device is the last of each round: what the others are compared with.
    roll, images = (settled([[taken[i] for taken in one] for one in rounds]) for i in range(2))
    rows = [
        [str(num), *(f"{figure(1e3 * one.medians[-i])} ms ({one.ratios[-i]:.2f})" for one in (roll, images))]
        for i, num in enumerate(DEVICES, 1)
    ]
    header = ("forced devices", "`swiss_roll`, batch 1024: a train step", "`mnist`, batch 64")
    note = (
        "In parentheses: to one device, in the same round. All share the same cores: what is above 1 is the cost of "
        "cutting up, what is below it is work that XLA leaves to one core of each device."
    )
    return Table("scaling_devices", _COMMAND, header, rows, note)


def tables() -> list[Table]:
    """All of them."""
    return [over_timesteps(), over_batch(), over_size(), over_devices()]


def main() -> None:
    """Print them."""
    if "--child" in sys.argv:
        _child()
        return
    for table in tables():
        print(table.markdown(), end="\n\n")


if __name__ == "__main__":
    main()

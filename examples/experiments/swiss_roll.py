"""The swiss roll: schedule, optimizer, number of steps T, loss and size of the network, all with all.

As in the config `swiss_roll`, a perceptron on Fourier features predicts a full covariance; gradients are clipped to
norm 1 and parameters averaged. Learning rates are constant, without warm-up, unless the optimizer's name says "decay".
"""

from __future__ import annotations

import itertools
import time
from argparse import ArgumentParser, Namespace
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from dpm_jax.training import build
from dpm_jax.training import config as config_lib
from dpm_jax.units import bits
from examples.experiments import flags, lanes, record, table
from examples.experiments.chart import Layout
from examples.experiments.lanes import Lane
from examples.experiments.record import Cell, Outcome

__all__ = ["OPTIMIZERS", "SUMMARY", "add_arguments", "config", "run", "run_cell"]

SUMMARY = "schedule x optimizer x T x loss x network, 200 runs on the swiss roll: a quarter of an hour on 2 CPU cores"

SCHEDULES = ("linear", "cosine")
# The decay goes to a hundredth of the learning rate.
OPTIMIZERS = {
    "Adam 1e-3": Lane(1e-3, adam=True),
    "SGD 1e-3": Lane(1e-3),
    "momentum 1e-3": Lane(1e-3, momentum=0.9),
    "momentum 1e-4": Lane(1e-4, momentum=0.9),
    "momentum 1e-3, decay": Lane(1e-3, momentum=0.9, decay_rate=0.01),
}
# As the table has them, and as the config does.
LOSSES = {"K": "bound", "MSE": "sample_mse"}

_FLOOR = -8.0


class Grid(NamedTuple):
    """T, the networks' hidden layers, and the sizes that flags can change."""

    num_timesteps: tuple[int, ...]
    networks: dict[str, tuple[int, ...]]
    sizes: dict[str, int]


_FULL = Grid(
    (40, 100, 150, 200, 1000),
    {"small": (32, 32), "large": (64, 64, 64)},
    {"steps": 6000, "batch_size": 256, "num_examples": 2000},
)
_QUICK = Grid((4,), {"small": (8,)}, {"steps": 20, "batch_size": 16, "num_examples": 50})


def add_arguments(parser: ArgumentParser) -> None:
    """Define the flags."""
    flags.add(parser, _FULL.sizes)


def config(
    schedule: str, num_timesteps: int, loss: str, features: tuple[int, ...], settings: dict[str, Any]
) -> ConfigDict:
    """Return the config of a run, but for its optimizer.

    Args:
      schedule: "linear" or "cosine".
      num_timesteps: T.
      loss: of the config's choices.
      features: of the hidden layers.
      settings: seed, steps, batch_size and num_examples.
    """
    c = config_lib.default()
    c.seed = settings["seed"]
    c.num_timesteps = num_timesteps
    c.schedule.name = schedule
    c.reverse.covariance = "full"
    c.network.time_mlp.features = features
    c.train.objective = loss
    c.train.max_skipped = 1  # a lane that is not finite once is out
    c.train.steps, c.train.batch_size = settings["steps"], settings["batch_size"]
    c.evaluate.num_examples = settings["num_examples"]
    return c


def run_cell(cell: Cell, features: tuple[int, ...], settings: dict[str, Any]) -> Outcome:
    """Train and evaluate both schedules with all optimizers, one program.

    Args:
      cell: its "T" and "loss", and its "network", the name of `features`.
      features: of the hidden layers.
      settings: as `config`.
    """
    configs = [config(s, int(cell["T"]), LOSSES[str(cell["loss"])], features, settings) for s in SCHEDULES]
    source = build.source(configs[0])
    built = [build.experiment(c, source.shape) for c in configs]
    program = lanes.build(built, lanes.stack(list(OPTIMIZERS.values())), source.supply)

    began = time.perf_counter()
    states, failed_at = jax.block_until_ready(program.run_steps(program.start, settings["steps"]))
    trained = time.perf_counter()
    # The same points and noise in every cell: runs are compared on them, not on the luck of the draw.
    data_key, noise_key = jax.random.split(jax.random.key(settings["seed"] + 1))
    k = program.evaluate(noise_key, states, source.held_out(data_key, settings["num_examples"]))
    evaluated = time.perf_counter()

    num_runs = len(SCHEDULES) * len(OPTIMIZERS)
    share = (trained - began) / num_runs, program.num_bytes / 2**20 / num_runs
    rows = [
        table.row({"schedule": s, "optimizer": o, **cell}, k[i][j], int(failed_at[i][j]), *share)
        for i, s in enumerate(SCHEDULES)
        for j, o in enumerate(OPTIMIZERS)
    ]
    seconds = program.compile_seconds, trained - began, evaluated - trained
    return Outcome(cell, *seconds, program.num_bytes / 2**20, rows)


def run(arguments: Namespace) -> None:
    """Run the grid, or what is left of it, and show it.

    Raises:
      UserError: as `record.complete`.
    """
    grid = _QUICK if arguments.quick else _FULL
    settings = flags.given(arguments, grid.sizes) | {"quick": arguments.quick}
    cells: list[Cell] = [
        {"T": num_timesteps, "loss": loss, "network": network}
        for num_timesteps, loss, network in itertools.product(grid.num_timesteps, LOSSES, grid.networks)
    ]
    path = arguments.out / "swiss_roll.json"
    outcomes = record.complete(
        path, settings, cells, lambda cell: run_cell(cell, grid.networks[str(cell["network"])], settings)
    )
    source = build.source(config_lib.default())
    assert source.mean_log_prob is not None
    layout = Layout(x="T", column="optimizer", line="network", colour="schedule", style="loss")
    flags.finish(path, outcomes, layout, bits(source.mean_log_prob()), _FLOOR)

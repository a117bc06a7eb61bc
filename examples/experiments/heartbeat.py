"""The binary heartbeat: Adam against SGD, learning rate, epochs and width of the network, all with all.

As in the config `heartbeat`, a perceptron of two hidden layers predicts the marginals of x_0, and beta_t erases. The
loss is -K, gradients are clipped to norm 1, and learning rates are constant, without warm-up; so a run of few epochs
is the beginning of a longer one, and is read off on the way. Every sequence is fresh: an epoch is a number of them.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from dpm_jax.training import build
from dpm_jax.training import config as config_lib
from dpm_jax.units import bits
from examples.experiments import flags, lanes, record, table
from examples.experiments.chart import Layout
from examples.experiments.lanes import Lane
from examples.experiments.record import Cell, Outcome

__all__ = ["SUMMARY", "add_arguments", "config", "run", "run_cell"]

SUMMARY = "optimizer x learning rate x epochs x width, 36 runs on the heartbeat: about a minute on 2 CPU cores"

RATES = (0.5, 0.05)
OPTIMIZERS = ("Adam", "SGD")

_FLOOR = -22.0


class Grid(NamedTuple):
    """T, epochs, the widths of the networks, and the sizes that flags can change."""

    num_timesteps: int
    epochs: tuple[int, ...]
    widths: tuple[int, ...]
    sizes: dict[str, int]


_FULL = Grid(100, (5, 20, 60), (16, 64, 256), {"epoch_steps": 50, "batch_size": 200, "num_examples": 2000})
_QUICK = Grid(4, (1, 2), (4,), {"epoch_steps": 5, "batch_size": 16, "num_examples": 50})


def add_arguments(parser: ArgumentParser) -> None:
    """Define the flags."""
    flags.add(parser, _FULL.sizes)


def config(grid: Grid, width: int, settings: dict[str, Any]) -> ConfigDict:
    """Return the config of a run, but for its optimizer.

    Args:
      grid: T and epochs.
      width: of both hidden layers.
      settings: seed, epoch_steps, batch_size and num_examples.
    """
    c = config_lib.default()
    c.seed = settings["seed"]
    c.num_timesteps = grid.num_timesteps
    c.kernel = "binomial"
    c.reverse.prediction = "x_0"
    c.data.name = "heartbeat"
    c.schedule.name = "erase"
    c.schedule.erase.beta_1 = 1e-5
    c.network.time_mlp.features = (width, width)
    c.network.time_mlp.num_frequencies = 0
    # About an epoch is averaged: a longer memory would be of the beginning, where a run is short.
    c.optimizer.ema_decay = 0.98
    c.train.max_skipped = 1  # a lane that is not finite once is out
    c.train.steps, c.train.batch_size = settings["epoch_steps"] * max(grid.epochs), settings["batch_size"]
    c.evaluate.num_examples = settings["num_examples"]
    return c


def run_cell(cell: Cell, grid: Grid, settings: dict[str, Any]) -> Outcome:
    """Train all optimizers and rates at one width, one program, and evaluate them after each number of epochs.

    Args:
      cell: its "width".
      grid: T and epochs.
      settings: as `config`.
    """
    c = config(grid, int(cell["width"]), settings)
    source = build.source(c)
    tried = [(o, rate) for o in OPTIMIZERS for rate in RATES]
    numbers = lanes.stack([Lane(rate, adam=o == "Adam") for o, rate in tried])
    program = lanes.build([build.experiment(c, source.shape)], numbers, source.supply)
    data_key, noise_key = jax.random.split(jax.random.key(c.seed + 1))
    x_0 = source.held_out(data_key, c.evaluate.num_examples)

    states, first_failure, done = program.start, np.full(len(tried), -1), 0
    train_seconds = evaluate_seconds = 0.0
    rows = []
    for epochs in grid.epochs:
        began = time.perf_counter()
        num = settings["epoch_steps"] * (epochs - done)
        states, (failed_at,) = jax.block_until_ready(program.run_steps(states, num))
        trained = time.perf_counter()
        (k,) = program.evaluate(noise_key, states, x_0)
        train_seconds += trained - began
        evaluate_seconds += time.perf_counter() - trained
        done, first_failure = epochs, np.where(first_failure < 0, failed_at, first_failure)
        # Of the whole run up to here: the epochs before are part of it.
        share = train_seconds / len(tried), program.num_bytes / 2**20 / len(tried)
        rows += [
            table.row({"optimizer": o, "learning rate": rate, "epochs": epochs, **cell}, k[i], int(failure), *share)
            for i, ((o, rate), failure) in enumerate(zip(tried, first_failure, strict=True))
        ]
    seconds = program.compile_seconds, train_seconds, evaluate_seconds
    return Outcome(cell, *seconds, program.num_bytes / 2**20, rows)


def run(arguments: Namespace) -> None:
    """Run the grid, or what is left of it, and show it.

    Raises:
      UserError: as `record.complete`.
    """
    grid = _QUICK if arguments.quick else _FULL
    settings = flags.given(arguments, grid.sizes) | {"quick": arguments.quick}
    cells: list[Cell] = [{"width": width} for width in grid.widths]
    print(f"an epoch: {settings['epoch_steps'] * settings['batch_size']} fresh sequences")
    path = arguments.out / "heartbeat.json"
    outcomes = record.complete(path, settings, cells, lambda cell: run_cell(cell, grid, settings))
    source = build.source(config(grid, 1, settings))
    assert source.mean_log_prob is not None
    layout = Layout(x="epochs", column="width", colour="optimizer", style="learning rate")
    flags.finish(path, outcomes, layout, bits(source.mean_log_prob()), _FLOOR)

"""The share of the rate of plain matrix products that a train step reaches.

  python -m benchmarks.utilization                 # mnist and cifar10; on an accelerator, ddpm_cifar10
  python -m benchmarks.utilization mnist dead_leaves

The rate is measured here, of products of large square matrices in the dtype of the network; operations of a step are
those of its matrix products and convolutions, `training.flops`.
"""

from __future__ import annotations

import sys
from functools import partial
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from benchmarks.tables import Table, figure
from benchmarks.timing import in_turn, seconds
from benchmarks.train_step import SECONDS, ours, source_of
from dpm_jax.training import build, cost, step

REPEATS = 5


def products(dtype: Any) -> tuple[Any, float]:
    """num -> that many products of square matrices, one after another, and the operations of one."""
    side = 2048 if jax.default_backend() == "cpu" else 8192
    a = (jax.random.normal(jax.random.key(0), (side, side)) / side**0.5).astype(dtype)

    @jax.jit
    def run(a: Array, num: Array) -> Array:
        product: Array = jax.lax.fori_loop(0, num, lambda _, b: (a @ b).astype(a.dtype), a)
        return product

    return partial(run, a), 2.0 * side**3


def row(name: str) -> list[str]:
    """Measure one config."""
    config = import_module(f"dpm_jax.configs.{name}").get_config()
    source = source_of(config)
    built = build.experiment(config, source.shape, source.standardization)
    training = ours(built, source)
    multiply, operations = products(jnp.dtype(config.network.dtype))
    lengths = []
    for run in (training, multiply):
        seconds(lambda: run(1))  # noqa: B023
        lengths.append(max(1, round(SECONDS / seconds(lambda: run(1)))))  # noqa: B023
    runs = [partial(run, num) for run, num in zip((training, multiply), lengths, strict=True)]
    taken = in_turn(runs, REPEATS).medians
    achieved = cost.step_flops(built, jax.eval_shape(lambda: step.init(built))) * lengths[0] / taken[0]
    rate = operations * lengths[1] / taken[1]
    cells = [config.network.dtype, figure(achieved / 1e9), figure(rate / 1e9), f"{100 * achieved / rate:.0f} %"]
    return [f"`{name}`", str(config.train.batch_size), *cells]


def tables(names: tuple[str, ...] = ()) -> list[Table]:
    """Measure, and return the one table."""
    chosen = names or (("mnist", "cifar10") if jax.default_backend() == "cpu" else ("ddpm_cifar10",))
    header = ("config", "batch", "dtype", "train step, GFLOP/s", "matrix products, GFLOP/s", "of it")
    return [Table("utilization", "python -m benchmarks.utilization", header, [row(name) for name in chosen])]


def main() -> None:
    """Print it."""
    for table in tables(tuple(sys.argv[1:])):
        print(table.markdown())


if __name__ == "__main__":
    main()

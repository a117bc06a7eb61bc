"""The cost of a train step, against the bare network.

  python -m benchmarks.train_step
  python -m benchmarks.train_step ddpm_cifar10 cifar10_paper    # on an accelerator

Times, in one process and in turn, (a) `training.step.make_run_steps` as train.py calls it, with the config's batch,
objective, optimizer and average, and (b) the limit: as many values and gradients of the same network on the same
number of examples, in one dispatch, too, with nothing else but w - 1e-9 g, so that no gradient is left out; (c) what
making the batch takes of (a): generated data are made on the device. Images are random pixels: no files are needed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from benchmarks.tables import Table, figure
from benchmarks.timing import in_turn, seconds
from dpm_jax.data import sources
from dpm_jax.data.image_set import ImageSet
from dpm_jax.data.sources import Source, Stream
from dpm_jax.training import build, step
from dpm_jax.training.experiment import Experiment, Params

CONFIGS = (
    "swiss_roll",
    "swiss_roll_paper",
    "heartbeat",
    "heartbeat_paper",
    "mnist",
    "ddpm_mnist",
    "cold_blur_mnist",
    "cifar10",
    "dead_leaves",
    "bark",
)
REPEATS = 7
SECONDS = 1.0  # of one timing

# Of what is read from files; in their place are random pixels.
SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}


def source_of(config: ConfigDict) -> Source:
    """Return the data of a config, or random pixels of their shape."""
    if config.data.name not in ("tfds", "folder"):
        return build.source(config)
    crop = config.data.crop
    shape = (crop, crop, 1) if crop else SHAPES[config.data.tfds.dataset]
    pixels = np.random.default_rng(0).integers(0, 256, (256, *shape), np.uint8)
    source = sources.image_source(ImageSet(pixels, pixels[:64], None))
    return build.with_spectrum(source) if config.noise == "spectrum" else source


def _maker(source: Source, size: int) -> Callable[[Array], Array]:
    """key -> a batch in the model's units; of what comes from the host the pixels are there already."""
    supply = source.supply
    if not isinstance(supply, Stream):
        return lambda key: supply(key, size)
    pixels = jnp.asarray(np.random.default_rng(1).integers(0, 256, (size, *source.shape), np.uint8))
    return lambda key: supply.prepare(key, pixels)


def ours(built: Experiment, source: Source) -> Callable[[int], Any]:
    """num -> that many train steps in one dispatch."""
    make = _maker(source, built.config.train.batch_size)
    run = step.make_run_steps(built, lambda key, _: make(key))
    state = [step.init(built)]

    def take(num: int) -> Any:
        state[0], progress = run(state[0], num, None)
        return progress

    return take


def limit(built: Experiment) -> Callable[[int], Any]:
    """num -> that many values and gradients of the bare network, in one dispatch."""
    size = built.config.train.batch_size
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (size, *built.shape))
    t = jax.random.randint(keys[1], (size,), 1, built.config.num_timesteps + 1)
    params = built.init(jax.random.key(1))
    target = jax.random.normal(keys[2], jax.eval_shape(built.network, params, x, t).shape)

    def loss(params: Params, i: Array) -> Array:
        # Other inputs at every step: what never changes would be computed once for all of them.
        times = 1 + (t + i) % built.config.num_timesteps
        return ((built.network(params, x + 1e-6 * i, times) - target) ** 2).mean()

    @jax.jit
    def run(params: Params, num: Array) -> Params:
        def advance(i: Array, params: Params) -> Params:
            _, grads = jax.value_and_grad(loss)(params, i)
            moved: Params = jax.tree.map(lambda w, g: w - 1e-9 * g, params, grads)
            return moved

        return jax.lax.fori_loop(0, num, advance, params)  # type: ignore[no-any-return]

    return partial(run, params)


def drawing(built: Experiment, source: Source) -> Callable[[int], Any]:
    """num -> that many batches made, in one dispatch."""
    make = _maker(source, built.config.train.batch_size)

    @jax.jit
    def run(num: Array) -> Array:
        def advance(i: Array, total: Array) -> Array:
            # Every number of every batch is of use, or it would not be made.
            return total + make(jax.random.fold_in(jax.random.key(0), i)).sum()

        total: Array = jax.lax.fori_loop(0, num, advance, jnp.zeros(()))
        return total

    return run


def row(name: str) -> list[str]:
    """Measure one config."""
    config = import_module(f"dpm_jax.configs.{name}").get_config()
    source = source_of(config)
    built = build.experiment(config, source.shape, source.standardization)
    runs = [ours(built, source), drawing(built, source), limit(built)]
    for run in runs:
        seconds(lambda: run(1))  # noqa: B023
    num = max(1, round(SECONDS / seconds(lambda: runs[-1](1))))
    num = max(1, round(num * SECONDS / seconds(lambda: runs[-1](num))))
    timing = in_turn([partial(run, num) for run in runs], REPEATS)
    rate = num / timing.medians[0]
    size = config.train.batch_size
    share = timing.medians[1] / timing.medians[0]
    return [
        f"`{name}`",
        str(size),
        figure(rate),
        figure(rate * size),
        f"{timing.ratios[0]:.3f}",
        f"{100 * share:.1f} %",
    ]


def tables(names: tuple[str, ...] = CONFIGS) -> list[Table]:
    """Measure, and return the one table."""
    rows = []
    for name in names:
        rows.append(row(name))
        print(*rows[-1], flush=True)
    header = ("config", "batch", "steps/s", "examples/s", "step / limit", "of it, making the batch")
    return [Table("train_step", "python -m benchmarks.train_step", header, rows)]


def main() -> None:
    """Print it."""
    for table in tables(tuple(sys.argv[1:]) or CONFIGS):
        print(table.markdown())


if __name__ == "__main__":
    main()

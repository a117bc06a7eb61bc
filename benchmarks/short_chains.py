"""How much faster a chain of few steps draws than the whole one: MNIST, 50 steps against 1000.

  python -m benchmarks.short_chains

Times, in one process and in turn, compiled draws of as many images by both chains, with the network of the config
`ddpm_mnist` at initialisation.
"""

from __future__ import annotations

from functools import partial

import jax
from jax import Array

from benchmarks.tables import Table, figure
from benchmarks.timing import in_turn
from dpm_jax import respacing, sampling
from dpm_jax.configs import ddpm_mnist
from dpm_jax.evaluation import short_chains
from dpm_jax.training import build, step
from dpm_jax.training.experiment import Experiment, Params

BATCH = 16
REPEATS = 3
SHAPE = (28, 28, 1)


def _draw(built: Experiment, params: Params, key: Array) -> Array:
    return sampling.sample(key, built.model(params), BATCH, SHAPE)


def tables() -> list[Table]:
    """Measure, and return the one table."""
    config = ddpm_mnist.get_config()
    built = build.experiment(config, SHAPE)
    params = step.init(built).params
    num_timesteps = config.num_timesteps
    short = short_chains.shortened(built, respacing.uniform(num_timesteps, 50))
    draws = [partial(jax.jit(partial(_draw, chain)), params, jax.random.key(0)) for chain in (built, short)]
    timing = in_turn(draws, REPEATS)
    whole, fast = timing.medians
    row = [f"{figure(whole)} s", f"{figure(fast)} s", figure(timing.ratios[0])]
    header = (f"{BATCH} MNIST images, {num_timesteps} steps", "50 steps", "times as fast")
    return [Table("short_chains", "python -m benchmarks.short_chains", header, [row])]


def main() -> None:
    """Print it."""
    for table in tables():
        print(table.markdown())


if __name__ == "__main__":
    main()

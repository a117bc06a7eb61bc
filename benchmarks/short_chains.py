"""How much faster a chain of few steps draws than the whole one: MNIST, 50 steps against 1000.

  python -m benchmarks.short_chains

Times, in one process and in turn, compiled draws of as many images by both chains, of configs/ddpm_mnist.py's network
at initialisation, and prints the medians and the median of their ratios.
"""

from __future__ import annotations

import time
from functools import partial
from statistics import median

import jax
from jax import Array

from configs import ddpm_mnist
from dpm_jax import experiment, respacing, sampling
from dpm_jax.evaluation import short_chains
from dpm_jax.experiment import Experiment, Params
from dpm_jax.training import step

BATCH = 16
REPEATS = 3
SHAPE = (28, 28, 1)


def _draw(built: Experiment, params: Params, key: Array) -> Array:
    schedule, reverse = built.model(params)
    return sampling.ancestral(key, built.kernel, reverse, BATCH, SHAPE, schedule.num_timesteps)


def _seconds(draw: partial[Array]) -> float:
    start = time.perf_counter()
    draw().block_until_ready()
    return time.perf_counter() - start


def main() -> None:
    """Print one line."""
    config = ddpm_mnist.get_config()
    built = experiment.build(config, SHAPE)
    params = step.init(built).params
    num_timesteps = config.num_timesteps
    short = short_chains.shortened(built, respacing.uniform(num_timesteps, 50))
    draws = [partial(jax.jit(partial(_draw, chain)), params, jax.random.key(0)) for chain in (built, short)]
    for draw in draws:
        _seconds(draw)
    pairs = [tuple(_seconds(draw) for draw in draws) for _ in range(REPEATS)]
    whole, fast = (median(times) for times in zip(*pairs, strict=True))
    ratio = median(a / b for a, b in pairs)
    print(
        f"{jax.devices()[0].device_kind}, {BATCH} images, median of {REPEATS}: {num_timesteps} steps {whole:.2f} s, "
        f"50 steps {fast:.2f} s, {ratio:.1f} times as fast"
    )


if __name__ == "__main__":
    main()

"""What a reverse step costs beside the bare network.

  python -m benchmarks.sampler

Times, in one process and in turn, (a) ancestral sampling by scan, T steps, and (b) the jitted
forward pass of the same network called T times, on the very states and times that the sampler
goes through (sines of larger numbers take longer); prints the medians a step and the median
of their ratios. The networks are those of the default configs at initialisation.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median

import jax
import jax.numpy as jnp
from jax import Array

from configs import heartbeat, swiss_roll
from dpm_jax import experiment, sampling
from dpm_jax.training import step

BATCH = 1024
REPEATS = 15


def seconds(function: Callable[[], Array]) -> float:
    """Wall time of one finished call."""
    start = time.perf_counter()
    function().block_until_ready()
    return time.perf_counter() - start


def main() -> None:
    """Print one line a config."""
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, batch {BATCH}, median of {REPEATS}")
    for config in (swiss_roll.get_config(), heartbeat.get_config()):
        source = experiment.open_source(config)
        built = experiment.build(config, source.shape)
        params = step.init(built).params
        _, reverse = built.model(params)
        num_timesteps = config.num_timesteps
        states = sampling.ancestral_trajectory(
            jax.random.key(0), built.kernel, reverse, BATCH, built.shape, num_timesteps
        )
        inputs = [(jnp.array(x), jnp.full(BATCH, t)) for x, t in zip(states.x[:-1], states.t[:-1], strict=True)]
        sample = jax.jit(
            partial(sampling.ancestral, kernel=built.kernel, reverse=reverse, num=BATCH, shape=built.shape),
            static_argnames="num_timesteps",
        )
        forward = jax.jit(built.network)

        def draw() -> Array:
            drawn: Array = sample(jax.random.key(0), num_timesteps=num_timesteps)  # noqa: B023
            return drawn

        def call() -> Array:
            calls: list[Array] = [forward(params, x, t) for x, t in inputs]  # noqa: B023
            return calls[-1]

        seconds(draw), seconds(call)
        pairs = [(seconds(draw), seconds(call)) for _ in range(REPEATS)]
        ours, bare = (median(times) / num_timesteps * 1e3 for times in zip(*pairs, strict=True))
        ratio = median(a / b for a, b in pairs)
        print(
            f"{config.data.name:>10}, T = {num_timesteps}: "
            f"reverse step {ours:.3f} ms, network {bare:.3f} ms, ratio {ratio:.3f}"
        )


if __name__ == "__main__":
    main()

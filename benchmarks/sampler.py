"""What a reverse step costs beside the bare network.

  python -m benchmarks.sampler

Times, in one process and in turn, (a) ancestral sampling by scan, T steps, and (b) the
jitted forward pass of the same network alone, T calls in a scan on the same batch; prints
the medians and the ratio of their times a step. The networks are those of the default configs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
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
        x = source.sample(jax.random.key(1), BATCH)

        @jax.jit
        def sample(key: Array) -> Array:
            return sampling.ancestral(key, built.kernel, reverse, BATCH, built.shape, num_timesteps)  # noqa: B023

        @jax.jit
        def network(x: Array) -> Array:
            def call(total: Array, t: Array) -> tuple[Array, None]:
                # The sum goes into the next input, so that no call can be left out or moved out of the loop.
                outputs = built.network(params, x + 0 * total, jnp.full(BATCH, t, jnp.int32))  # noqa: B023
                return total + outputs.mean(), None

            return jax.lax.scan(call, jnp.zeros(()), jnp.arange(num_timesteps, 0, -1))[0]  # noqa: B023

        key = jax.random.key(0)
        seconds(lambda: sample(key)), seconds(lambda: network(x))  # noqa: B023
        pairs = [(seconds(lambda: sample(key)), seconds(lambda: network(x))) for _ in range(REPEATS)]  # noqa: B023
        ours, bare = (median(times) / num_timesteps * 1e3 for times in zip(*pairs, strict=True))
        ratio = median(a / b for a, b in pairs)
        print(
            f"{config.data.name:>10}, T = {num_timesteps}: "
            f"reverse step {ours:.3f} ms, network {bare:.3f} ms, ratio {ratio:.3f}"
        )


if __name__ == "__main__":
    main()

"""The cost of a reverse step, against the bare network.

  python -m benchmarks.sampler

Times, in one process and in turn, (a) ancestral sampling by scan, T steps, and (b) the jitted
forward pass of the same network called T times, on the very states and times that the sampler
goes through (sines of larger numbers take longer). The networks are those of the default configs at
initialisation, those of images with T = 10: a step costs the same.
"""

from __future__ import annotations

from importlib import import_module

import jax
import jax.numpy as jnp
from jax import Array

from benchmarks.tables import Table, figure
from benchmarks.timing import in_turn
from benchmarks.train_step import source_of
from dpm_jax import sampling
from dpm_jax.training import build, step

# Name of a config, examples at once, T (0: the config's own), repeats.
CASES = (
    ("swiss_roll", 1024, 0, 15),
    ("heartbeat", 1024, 0, 15),
    ("mnist", 64, 10, 7),
    ("cifar10", 32, 10, 7),
    ("dead_leaves", 32, 10, 7),
)


def row(name: str, num: int, num_timesteps: int, repeats: int) -> list[str]:
    """Measure one config."""
    config = import_module(f"dpm_jax.configs.{name}").get_config()
    config.num_timesteps = num_timesteps or config.num_timesteps
    steps = config.num_timesteps
    built = build.experiment(config, (source := source_of(config)).shape, source.standardization)
    params = step.init(built).params
    model = built.model(params)
    states = sampling.trajectory(jax.random.key(0), model, num, built.shape)
    inputs = [(jnp.array(x), jnp.full(num, t)) for x, t in zip(states.x[:-1], states.t[:-1], strict=True)]
    draw = jax.jit(lambda key: sampling.sample(key, model, num, built.shape))
    forward = jax.jit(built.network)

    def call() -> Array:
        calls: list[Array] = [forward(params, x, t) for x, t in inputs]
        return calls[-1]

    timing = in_turn([lambda: draw(jax.random.key(0)), call], repeats)
    ours, bare = (1e3 * taken / steps for taken in timing.medians)
    return [f"`{name}`", str(num), f"{figure(ours)} ms", f"{figure(bare)} ms", f"{timing.ratios[0]:.3f}"]


def tables() -> list[Table]:
    """Measure, and return the one table."""
    rows = []
    for case in CASES:
        rows.append(row(*case))
        print(*rows[-1], flush=True)
    header = ("config", "examples at once", "reverse step", "bare forward", "ratio")
    return [Table("sampler", "python -m benchmarks.sampler", header, rows)]


def main() -> None:
    """Print it."""
    for table in tables():
        print(table.markdown())


if __name__ == "__main__":
    main()

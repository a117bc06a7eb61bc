"""This project on two versions of JAX.

  python -m benchmarks.versions PYTHON

PYTHON is that of another virtual environment in which this project is installed. Train steps and reverse steps are
timed by one process of either, in turn: A B A B ...; figures are medians of the processes' medians, ratios those within
a round.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from importlib import import_module
from typing import Any

import jax

from benchmarks.tables import ROOT, Table, cores, figure, write
from benchmarks.timing import in_turn, seconds, settled
from benchmarks.train_step import ours, source_of
from dpm_jax import sampling
from dpm_jax.training import build, step

ROUNDS = 3
REPEATS = 5
SECONDS = 1.0  # of one timing
# Name of a config, samples at once, T of the chain that is sampled.
CASES = (("swiss_roll", 1024, 40), ("heartbeat", 1024, 100), ("mnist", 64, 10), ("cifar10", 32, 10))


def work() -> dict[str, float]:
    """Measure here, and return the seconds of each step by its name."""
    found = {}
    for name, num, num_timesteps in CASES:
        config = import_module(f"dpm_jax.configs.{name}").get_config()
        built = build.experiment(config, (source := source_of(config)).shape, source.standardization)
        train = ours(built, source)
        seconds(lambda: train(1))  # noqa: B023
        count = max(1, round(SECONDS / seconds(lambda: train(1))))  # noqa: B023
        config.num_timesteps = num_timesteps
        built = build.experiment(config, source.shape, source.standardization)
        model = built.model(step.init(built).params)
        draw = jax.jit(partial(sampling.sample, model=model, num=num, shape=built.shape))
        calls = [partial(train, count), partial(draw, jax.random.key(0))]
        of_train, of_sampler = in_turn(calls, REPEATS).medians
        found[f"`{name}`, a train step"] = of_train / count
        found[f"`{name}`, a reverse step of {num}"] = of_sampler / num_timesteps
    return found


def _measured(python: str) -> dict[str, Any]:
    script = "import json, jax; from benchmarks.versions import work; print(json.dumps([jax.__version__, work()]))"
    done = subprocess.run([python, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: {python}: {done.stderr}")
    version, found = json.loads(done.stdout.splitlines()[-1])
    return {"version": version, **found}


def tables(other: str) -> list[Table]:
    """Measure, and return the one table."""
    rounds = [[_measured(python) for python in (other, sys.executable)] for _ in range(ROUNDS)]
    theirs, here = (found.pop("version") for found in rounds[0])
    rows = []
    for name in rounds[0][0]:
        timing = settled([[found[name] for found in both] for both in rounds])
        newer, older = (f"{figure(1e3 * taken)} ms" for taken in timing.medians)
        rows.append([name, older, f"{newer} ({timing.ratios[0]:.2f})"])
    header = ("", f"jax {here}", f"jax {theirs}")
    note = f"{cores()} CPU cores; in parentheses: to the first, in the same round."
    return [Table("versions", "python -m benchmarks.versions PYTHON", header, rows, note)]


def main() -> None:
    """Measure, print, write."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    made = tables(sys.argv[1])
    print(made[0].markdown())
    write(made)


if __name__ == "__main__":
    main()

"""Train steps and reverse steps on two versions of JAX.

  python -m benchmarks.versions PYTHON

PYTHON is that of another virtual environment in which this project is installed. One process of either stays for the
whole measurement; each is asked in turn, A B A B, and rests while the other works.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import jax

from benchmarks.tables import ROOT, Table, figure, write
from benchmarks.timing import seconds, settled
from benchmarks.train_step import ours, source_of
from dpm_jax import sampling
from dpm_jax.training import build, step

ROUNDS = 7
SECONDS = 1.0  # of one timing
# Name of a config, samples at once, T of the chain that is sampled.
CASES = (("swiss_roll", 1024, 40), ("heartbeat", 1024, 100), ("mnist", 64, 10), ("mnist_bits", 16, 10))
NAMES = [f"`{name}`: {what}" for name, num, _ in CASES for what in ("a train step", f"a reverse step of {num}")]


def _calls(name: str, num: int, num_timesteps: int) -> list[Callable[[], float]]:
    """Return the two measurements of a config, compiled: each gives seconds a step."""
    config = import_module(f"dpm_jax.configs.{name}").get_config()
    source = source_of(config)
    train = ours(build.experiment(config, source.shape, source.standardization), source)
    config.num_timesteps = num_timesteps
    built = build.experiment(config, source.shape, source.standardization)
    model = built.model(step.init(built).params)
    draw = jax.jit(partial(sampling.sample, model=model, num=num, shape=built.shape))
    chain = partial(draw, jax.random.key(0))
    for call in (partial(train, 1), chain):
        seconds(call)
    count = max(1, round(SECONDS / seconds(partial(train, 1))))
    chains = max(1, round(SECONDS / seconds(chain)))
    return [
        lambda: seconds(partial(train, count)) / count,
        lambda: seconds(lambda: [chain() for _ in range(chains)]) / (chains * num_timesteps),
    ]


def worker() -> None:
    """Print the version of JAX once all is compiled; then, for each number of a measurement read, its seconds."""
    calls = [call for case in CASES for call in _calls(*case)]
    print("ready", jax.__version__, flush=True)
    for line in sys.stdin:
        print("took", calls[int(line)](), flush=True)


def _answer(process: subprocess.Popen[str], word: str) -> str:
    """Return what a worker's next line that begins with `word` says after it."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(word):
            return line.removeprefix(word).strip()
    raise RuntimeError(f"{process.args!r} ended with {process.wait()}")


def _ask(process: subprocess.Popen[str], which: int) -> float:
    assert process.stdin is not None
    print(which, file=process.stdin, flush=True)
    return float(_answer(process, "took"))


def tables(other: str) -> list[Table]:
    """Measure, and return the one table."""
    command = ["-c", "from benchmarks.versions import worker; worker()"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    processes: list[subprocess.Popen[str]] = []
    versions = []
    try:
        for python in (other, sys.executable):
            processes.append(subprocess.Popen([python, *command], **pipes))
            versions.append(_answer(processes[-1], "ready"))
        rows = []
        for which, name in enumerate(NAMES):
            for process in processes:
                _ask(process, which)
            timing = settled([[_ask(process, which) for process in processes] for _ in range(ROUNDS)])
            there, here = (f"{figure(1e3 * taken)} ms" for taken in timing.medians)
            rows.append([name, here, f"{there} ({timing.ratios[0]:.2f})"])
            print(*rows[-1], flush=True)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    header = ("", *(f"jax {version}" for version in reversed(versions)))
    note = "In parentheses: to the first, in the same round."
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

"""From the start of train.py to the end of its first step.

  python -m benchmarks.start

Each run is a separate process, in turn: with an empty folder of compiled programs, and with what the first has left
there (`dpm_jax.cli.compilation_cache`). The first step is a dispatch by itself, so its end is known exactly.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.tables import ROOT, Table, figure
from benchmarks.timing import settled

CONFIGS = ("swiss_roll", "heartbeat", "dead_leaves")
ROUNDS = 3

CHILD = """
import os, sys, time
from dpm_jax.training import step
made = step.make_run_steps
def make_run_steps(*arguments):
    run = made(*arguments)
    def first(*arguments):
        import jax
        jax.block_until_ready(run(*arguments))
        print("reached", time.time(), flush=True)
        os._exit(0)
    return first
step.make_run_steps = make_run_steps
from dpm_jax.cli import train
sys.exit(train.main(sys.argv[1:]))
"""


def _taken(config: str, programs: Path, folder: Path) -> float:
    """Return the seconds of one run."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    command = [sys.executable, "-c", CHILD, f"--config={config}", f"--workdir={folder / 'run'}"]
    began = time.time()
    environment["XDG_CACHE_HOME"] = str(programs)
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=True)
    return float(done.stdout.rsplit("reached", 1)[1]) - began


def _round(config: str) -> list[float]:
    """Return the seconds of a first run, and of a second."""
    with tempfile.TemporaryDirectory() as programs:
        taken = []
        for _ in range(2):
            with tempfile.TemporaryDirectory() as folder:
                taken.append(_taken(config, Path(programs), Path(folder)))
    return taken


def tables() -> list[Table]:
    """Measure, and return the one table."""
    rows = []
    for config in CONFIGS:
        timing = settled([_round(config) for _ in range(ROUNDS)])
        first, second = timing.medians
        rows.append([f"`{config}`", f"{figure(first)} s", f"{figure(second)} s", f"{timing.ratios[0]:.2f}"])
        print(*rows[-1], flush=True)
    header = ("config", "first run", "programs are there", "times as fast")
    return [Table("start", "python -m benchmarks.start", header, rows)]


def main() -> None:
    """Print it."""
    for table in tables():
        print(table.markdown())


if __name__ == "__main__":
    main()

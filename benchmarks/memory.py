"""Peak memory of training against T.

  python -m benchmarks.memory

Runs train.py on the swiss roll at several T, each in a process of its own, and prints the
peak resident memory of each and its ratio to the smallest T's.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TIMESTEPS = (100, 1000, 10000)

# ru_maxrss is in KiB on Linux and in bytes on macOS; only ratios are printed beside it.
CHILD = """
import resource, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(num_timesteps: int) -> int:
    """Peak resident memory of a short training run, in the unit of ru_maxrss."""
    with tempfile.TemporaryDirectory() as workdir:
        command = [
            *(sys.executable, "-c", CHILD, str(ROOT / "train.py"), f"--workdir={workdir}/run"),
            *(f"--config.num_timesteps={num_timesteps}", "--config.train.steps=500"),
            "--config.evaluate.num_examples=4096",
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    return int(done.stdout.rsplit("peak", 1)[1])


def main() -> None:
    """Print one line a T."""
    first = None
    for num_timesteps in TIMESTEPS:
        memory = peak(num_timesteps)
        first = first or memory
        print(f"T = {num_timesteps:>6}: peak RSS {memory / 1024:.0f} MiB, {memory / first:.3f} of T = {TIMESTEPS[0]}")


if __name__ == "__main__":
    main()

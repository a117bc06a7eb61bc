"""Peak memory of training against T.

  python -m benchmarks.memory

Runs train.py on the swiss roll at several T in turn, each in a separate process, samples and evaluation included,
and reads the peak resident memory of each.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile

import numpy as np

from benchmarks.tables import ROOT, Table

TIMESTEPS = (10, 100, 1000, 10_000)
ROUNDS = 5

# On Linux ru_maxrss begins at the peak of the process that started this one; VmHWM does not.
CHILD = """
import pathlib, re, resource, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
status = pathlib.Path("/proc/self/status")
known = re.search(r"VmHWM:\\s+(\\d+)", status.read_text()) if status.exists() else None
print("peak", known[1] if known else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(num_timesteps: int) -> int:
    """Peak resident memory of a short training run, in KiB; on macOS in bytes."""
    with tempfile.TemporaryDirectory() as workdir:
        command = [
            *(sys.executable, "-c", CHILD, str(ROOT / "train.py"), f"--workdir={workdir}/run"),
            *(f"--config.num_timesteps={num_timesteps}", "--config.train.steps=500"),
            "--config.evaluate.num_examples=4096",
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    return int(done.stdout.rsplit("peak", 1)[1])


def tables() -> list[Table]:
    """Measure, and return the one table."""
    rounds = [[peak(num_timesteps) for num_timesteps in TIMESTEPS] for _ in range(ROUNDS)]
    # On macOS the unit is bytes.
    peaks = np.array(rounds) / (2**20 if sys.platform == "darwin" else 2**10)
    rows = [
        [
            f"{num_timesteps:,}",
            f"{np.median(of_one):.0f} MiB",
            f"{of_one.min():.0f} to {of_one.max():.0f} MiB",
            f"{np.median(of_one) / np.median(peaks[:, 0]):.3f}",
        ]
        for num_timesteps, of_one in zip(TIMESTEPS, peaks.T, strict=True)
    ]
    header = ("T", "peak resident memory of train.py", f"of {ROUNDS} runs", "of T = 10")
    return [Table("memory", "python -m benchmarks.memory", header, rows, "The swiss roll, 500 steps; medians.")]


def main() -> None:
    """Print it."""
    for table in tables():
        print(table.markdown())


if __name__ == "__main__":
    main()

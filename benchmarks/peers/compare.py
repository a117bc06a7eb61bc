"""The same work in other libraries, each in a separate virtual environment.

  python -m benchmarks.peers            # makes .venv-peers/ on the first call (PyTorch is large)

Two pieces of work, each library's own way of doing them, with T = 1000, L_simple, Adam, clipping by norm and an
average of the parameters: a perceptron of 3 x 128 on two numbers, batch 1024, which is the same everywhere; and a U-Net
of about 1.4 M parameters on 28 x 28 pixels, batch 64: diffusers' own `UNet2DModel` there, this project's `UNet` here,
and the same with Flax's own convolutions in diffusionjax, which brings none. One process at a time, in turn: A B C
A B C ...; figures are medians of the processes' medians, ratios those within a round.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.tables import ROOT, Table, figure
from benchmarks.timing import settled

__all__ = ["python_of", "tables"]

ROUNDS = 3

# PyTorch is pinned to the version that figures are of. Flax and Optax, without version, as diffusionjax has them.
PACKAGES = {
    "diffusers": ("torch==2.13.0", "numpy", "diffusers"),
    "diffusionjax": ("jax", "flax", "optax", "diffusionjax"),
}
TASKS = {
    "mlp_train": "perceptron: a train step",
    "mlp_reverse": "perceptron: a reverse step of sampling",
    "unet_train": "U-Net: a train step",
    "unet_reverse": "U-Net: a reverse step of sampling",
}


def python_of(name: str) -> Path:
    """Return the Python of a peer's environment, which is made if it is missing."""
    folder = ROOT / ".venv-peers" / name
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    ready = folder / ".installed"
    if not ready.exists():
        print(f"making {folder.relative_to(ROOT)}", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES[name]], check=True)
        ready.touch()
    return python


def _measure(python: Path, name: str) -> dict[str, float | str]:
    """Run one process of one library, and return its seconds by task, versions and numbers of parameters."""
    command = [str(python), "-m", f"benchmarks.peers.with_{name}"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: {name}: {done.stderr}")
    found: dict[str, float | str] = json.loads(done.stdout.splitlines()[-1])
    print(name, found, flush=True)
    return found


def tables() -> list[Table]:
    """Measure, and return the one table."""
    pythons = {name: python_of(name) for name in PACKAGES}
    pythons["dpm_jax"] = Path(sys.executable)
    rounds = [{name: _measure(python, name) for name, python in pythons.items()} for _ in range(ROUNDS)]
    rows = []
    for task, title in TASKS.items():
        timing = settled([[float(one[name][task]) for name in pythons] for one in rounds])
        cells = [
            f"{figure(1e3 * taken)} ms ({ratio:.2f})"
            for taken, ratio in zip(timing.medians, timing.ratios, strict=True)
        ]
        rows.append([title, cells[-1], *cells[:-1]])
    last = rounds[-1]
    rows.append(
        [
            "U-Net: parameters, a forward pass of an image",
            *(str(last[name]["unet_size"]) for name in ("dpm_jax", *PACKAGES)),
        ]
    )
    header = ["", *(str(last[name]["versions"]) for name in ("dpm_jax", *PACKAGES))]
    note = (
        f"In parentheses: to dpm_jax, in the same round; {ROUNDS} rounds, on CPU. The perceptron is the same in all; "
        "the U-Net of diffusers is its own, run eagerly, and diffusionjax, which has none, is given ours with Flax's "
        "convolutions in place of this project's."
    )
    return [Table("peers", "python -m benchmarks.peers", header, rows, note)]

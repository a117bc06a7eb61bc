"""Bits/dim against minutes: `train.py --config=cifar10`, and diffusers' U-Net with improved-diffusion's hybrid loss.

  python -m benchmarks.equal_minutes --data_dir=FOLDER       # makes .venv-peers/ on the first call

Trains one after the other, on whatever cores there are, and evaluates both by the same functions (`bounds`) on the
first 256 test images; writes curves.json and equal_minutes.png into --out, and the table into docs/benchmarks.md. The
same command again goes through what is missing in curves.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.equal_minutes import bounds
from benchmarks.peers.compare import python_of
from benchmarks.tables import ROOT, Table, write
from dpm_jax.cli import config_file
from dpm_jax.data import tfds
from dpm_jax.evaluation import plots

_NUM_IMAGES = 256
# Steps between the points of our curve.
_KEEP_EVERY = 1000
_TITLES = {"dpm_jax": "dpm_jax, cifar10", "diffusers": "diffusers' U-Net, L_hybrid"}

# (minutes, steps, bits/dim, its standard error)
Point = tuple[float, int, float, float]


def _point(minutes: float, step: int, values: np.ndarray) -> Point:
    return minutes, step, float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def _ours(out: Path, data_dir: str, images: np.ndarray) -> list[Point]:
    """Train, and return the curve; minutes are those since the run's folder was made."""
    where = out / "dpm_jax"
    settings = ["--config=cifar10", f"--config.train.keep_every={_KEEP_EVERY}"]
    command = [sys.executable, "train.py", *settings, f"--workdir={where}", f"--data_dir={data_dir}"]
    subprocess.run(command, cwd=ROOT, check=True)
    # Written when the run begins, and never again.
    began = (where / "data.json").stat().st_mtime
    steps = config_file.read("cifar10").config.train.steps
    points = []
    for step in range(_KEEP_EVERY, steps + 1, _KEEP_EVERY):
        minutes = ((where / "checkpoints" / str(step)).stat().st_mtime - began) / 60
        points.append(_point(minutes, step, bounds.of_run(where, step, images)))
        print("dpm_jax", points[-1], flush=True)
    return points


def _theirs(out: Path, pixels: np.ndarray, images: np.ndarray, minutes: float) -> list[Point]:
    """Train PyTorch's network in its own environment, and return the curve."""
    folder = out / "diffusers"
    folder.mkdir(parents=True, exist_ok=True)
    asked = bounds.questions(images)
    arrays: dict[str, Any] = {"x_t": asked.x_t, "t": asked.t, **bounds.schedule_arrays()}
    np.savez(folder / "questions.npz", **arrays)
    np.save(folder / "train.npy", pixels)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    program = [str(python_of("diffusers")), "-m", "benchmarks.equal_minutes.with_diffusers"]
    command = [*program, str(folder.resolve()), str(minutes)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    points = []
    for path in sorted(folder.glob("answers_*.npz")):
        found = np.load(path)
        points.append(_point(float(found["minutes"]), int(found["step"]), bounds.of_answers(asked, found["answers"])))
        print("diffusers", points[-1], flush=True)
    return points


def _draw(curves: dict[str, list[Point]], path: Path) -> None:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        minutes, _, means, errors = zip(*points, strict=True)
        axes.errorbar(minutes, means, errors, marker="o", capsize=2, label=_TITLES[name])
    axes.set(xlabel="minutes of training", ylabel="bits/dim, 256 test images", title="CIFAR-10")
    axes.legend()
    plots.save(figure, path)


def main() -> None:
    """Train what is not trained, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.equal_minutes", description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True, help="Folder with the TFDS dataset cifar10.")
    parser.add_argument("--minutes", type=float, default=15.0, help="Of PyTorch's training (15).")
    parser.add_argument("--out", type=Path, default=Path("runs/equal_minutes"), help="Folder of everything.")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "curves.json"
    curves: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    found = tfds.load("cifar10", "image", "train", "test", Path(given.data_dir), None, in_memory=True)
    pixels, images = np.asarray(found.train), np.asarray(found.held_out[:_NUM_IMAGES])
    for name, make in (
        ("dpm_jax", lambda: _ours(given.out, given.data_dir, images)),
        ("diffusers", lambda: _theirs(given.out, pixels, images, given.minutes)),
    ):
        if name not in curves:
            curves[name] = make()
            path.write_text(json.dumps(curves, indent=1))
    curves = {name: curves[name] for name in _TITLES}
    _draw(curves, given.out / "equal_minutes.png")
    rows = [
        [_TITLES[name], f"{minutes:.1f}", str(step), f"{mean:.3f} ± {error:.3f}"]
        for name, points in curves.items()
        for minutes, step, mean, error in points
    ]
    command = "python -m benchmarks.equal_minutes --data_dir=FOLDER"
    table = Table("equal_minutes", command, ("", "minutes", "steps", "bits/dim"), rows)
    print(table.markdown())
    write([table])


if __name__ == "__main__":
    main()

"""The tasks that every library does; runs in every environment, so it needs nothing but Python."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from statistics import median

NUM_TIMESTEPS = 1000
BETA_1, BETA_FINAL = 1e-4, 0.02
LEARNING_RATE, CLIP_NORM, EMA_DECAY = 1e-3, 1.0, 0.999

MLP_BATCH, MLP_WIDTH, MLP_LAYERS = 1024, 128, 3
UNET_BATCH, UNET_SIDE = 64, 28
# Reverse steps of the U-Net that are timed at once: each costs the same.
UNET_STEPS = 10

# Train steps that a library does in one go, where it can.
MLP_TRAIN_STEPS, UNET_TRAIN_STEPS = 100, 2

SECONDS = 4.0  # of measuring, a task


def taken(run: Callable[[], object], steps: int) -> float:
    """Return the median seconds of a step, over as many calls of `run` as fit."""
    run()
    times: list[float] = []
    while len(times) < 3 or sum(times) < SECONDS:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return median(times) / steps


def tell(versions: str, mlp: tuple[float, float, str], unet: tuple[float, float, str]) -> None:
    """Tell the benchmark.

    Args:
      versions: of what was measured.
      mlp: seconds of a train step and of a reverse step, and the size.
      unet: the same.
    """
    found: dict[str, float | str] = {"versions": versions, "unet_size": unet[2]}
    for name, (train, reverse, _) in (("mlp", mlp), ("unet", unet)):
        found |= {f"{name}_train": train, f"{name}_reverse": reverse}
    print(json.dumps(found))

"""Masks: which values of an example are observed, from a file or by the name of what is hidden."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import numpy as np

from dpm_jax.errors import UserError
from dpm_jax.evaluation.examples import check_numbers, load

__all__ = ["PRESETS", "check", "fit", "is_preset", "preset_mask", "read"]

PRESETS = "left, centre[:SIDE], random[:FRACTION]"


def is_preset(mask: str) -> bool:
    """Whether this is a preset, or meant to be one, and no file."""
    return mask.partition(":")[0] in ("left", "centre", "random")


def preset_mask(preset: str, num: int, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Return a mask by the name of what it hides: [num, *shape], True where observed, all channels of a pixel alike.

    | preset | hides, of images | of vectors |
    |---|---|---|
    | `left` | the left half | the first half of the coordinates |
    | `centre` | a square of half the shorter side, in the middle | the middle half |
    | `centre:SIDE` | one of SIDE x SIDE pixels | SIDE coordinates in the middle |
    | `random` | half of the pixels, drawn for each image | half of the coordinates |
    | `random:FRACTION` | that fraction of them | of them |

    Args:
      preset: as above.
      num: how many examples.
      shape: of one, [H, W, C] or [d].
      seed: of `random`.

    Raises:
      UserError: if there is no such preset, or it does not fit the shape.
    """
    kind, given, value = preset.partition(":")
    grid = shape[:-1] if len(shape) == 3 else shape
    if kind == "left" and not given:
        observed = np.ones(grid, bool)
        observed[..., : grid[-1] // 2] = False
    elif kind == "centre":
        side = _number(value, int, preset) if given else min(grid) // 2
        if given and not 1 <= side <= min(grid):
            size = " x ".join(map(str, grid))
            raise UserError(f"--mask={preset}: the hole must have a side from 1 to {min(grid)}, examples are {size}")
        observed = np.ones(grid, bool)
        observed[tuple(slice((length - side) // 2, (length - side) // 2 + side) for length in grid)] = False
    elif kind == "random":
        fraction = _number(value, float, preset) if given else 0.5
        if not 0 < fraction < 1:
            raise UserError(f"--mask={preset}: the fraction hidden must lie in (0, 1)")
        total = int(np.prod(grid))
        hidden = min(max(round(fraction * total), 1), max(total - 1, 1))
        order = np.stack([np.random.default_rng([seed, i]).permutation(total) for i in range(num)])
        observed = (order >= hidden).reshape(num, *grid)
    else:
        raise UserError(f"--mask={preset}: no such preset; there are {PRESETS}")
    if len(shape) == 3:
        observed = observed[..., None]
    return np.broadcast_to(observed, (num, *shape)).copy()


_Number = TypeVar("_Number", int, float)


def _number(value: str, kind: type[_Number], preset: str) -> _Number:
    try:
        return kind(value)
    except ValueError:
        raise UserError(f"--mask={preset}: '{value}' is not a number; presets are {PRESETS}") from None


def read(path: str) -> np.ndarray:
    """Read a mask from a `.npy`, `.npz` (key `mask`), `.csv` or images, as it is.

    Raises:
      UserError: if there is none, or it can't be read.
    """
    name = f"--mask: {path}"
    if not path or not Path(path).exists():
        raise UserError(f"{name} is no file or preset; presets hide {PRESETS}")
    mask = load(path, "mask", name)["mask"]
    check_numbers(mask, name)
    # Images: any of the channels.
    return mask if Path(path).suffix in (".npz", ".npy", ".csv") else mask.max(axis=-1, keepdims=True)


def fit(mask: np.ndarray, num: int, shape: tuple[int, ...], name: str) -> np.ndarray:
    """As bool [num, *shape], from one for all or one an example, with channels or without.

    Raises:
      UserError: if it has another shape, or more than two values.
    """
    check_numbers(mask, name)
    values = np.unique(mask[mask != 0])
    # Such as the edges that JPEG or anti-aliasing makes; which side would they be on?
    if len(values) > 1 or not np.isfinite(values).all():
        raise UserError(f"{name} holds more values than 0 (hidden) and one other (observed), such as {values[-1]:g}")
    grids = [shape] if len(shape) == 1 else [shape, (*shape[:2], 1), shape[:2]]
    for grid in grids:
        for batch in ((), (1,), (num,)):
            if mask.shape == (*batch, *grid):
                spread = mask.reshape(-1, *grid) if len(grid) == len(shape) else mask.reshape(-1, *grid, 1)
                return np.broadcast_to(spread != 0, (num, *shape)).copy()
    one = shape if len(shape) == 1 else shape[:2]
    each = f", or one for each of {num}: {(num, *one)}" if num > 1 else ""
    raise UserError(f"{name} has shape {mask.shape}; one for all is {one}{each}")


def check(mask: np.ndarray, name: str) -> None:
    """Refuse, with a `UserError`, a mask that hides everything of an example, or nothing."""
    flat = mask.reshape(len(mask), -1)
    for bad, what in ((~flat.any(axis=1), "hides everything"), (flat.all(axis=1), "hides nothing")):
        if bad.any():
            raise UserError(f"{name} {what} of example {int(np.argmax(bad))}; some must be observed and some hidden")

"""What a posterior is asked for: examples seen in part (to be inpainted) or through noise (to be denoised).

Examples come as they were found (`read`), are held against what the model takes and turned into
`Observations` (`inpainting`, `denoising`); draws from their posterior are held against the truth,
where it is known (`score`).
"""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from dpm_jax.data import Standardization, folder
from dpm_jax.errors import UserError
from dpm_jax.experiment import Experiment, check_size

__all__ = [
    "PRESETS",
    "Examples",
    "Observations",
    "Scores",
    "denoising",
    "inpainting",
    "preset_mask",
    "psnr",
    "read",
    "results",
    "score",
    "table",
]

PRESETS = "left, centre[:SIDE], random[:FRACTION]"


class Examples(NamedTuple):
    """Examples as they were found, not yet held against a model.

    Attributes:
      samples: [n, ...] or one example [...], numbers.
      mask: whatever numpy array the key `mask` held; None where there was none.
      truth: the same of the key `truth`.
      name: what messages call them: the flag and the file, "--inpaint: digits.npz".
    """

    samples: np.ndarray
    mask: np.ndarray | None
    truth: np.ndarray | None
    name: str


class Observations(NamedTuple):
    """Examples, seen in part or through noise, in the data's own units.

    Attributes:
      y: [n, *shape] float32: pixels 0..255 (the integer itself, not the middle of its step), bits 0 and 1, points;
        0 where not observed, so that nothing of the truth is in it.
      mask: [n, *shape] bool, True where observed.
      noise: standard deviation of the noise in the data's own units, 0 for none; of bits, the probability that
        one was flipped.
      truth: [n, *shape] float32; None where it is not known.
    """

    y: np.ndarray
    mask: np.ndarray
    noise: float
    truth: np.ndarray | None


# --- Reading ---


def read(path: str, flag: str) -> Examples:
    """Examples of a `.npz` (keys `samples`, `mask` and `truth`, the last two if there), a `.npy`, or image files.

    Args:
      path: of the file, or of a folder of images of one size.
      flag: that names it, for messages.

    Raises:
      UserError: if there is no such file, or it can't be read, or does not hold numbers.
    """
    name = f"{flag}: {path}"
    found = _load(path, "samples", name)
    for key, array in found.items():
        _check_numbers(array, name if key == "samples" else f"{name}, key '{key}',")
    return Examples(found["samples"], found.get("mask"), found.get("truth"), name)


def _load(path: str, needed: str, name: str) -> dict[str, np.ndarray]:
    """The arrays of a file by their keys, one of them `needed`; what has no keys is that one."""
    if not Path(path).exists():
        raise UserError(f"{name} does not exist")
    try:
        if Path(path).suffix not in (".npz", ".npy"):
            return {needed: _stack(folder.load(Path(path), "refuse"))}
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            return {needed: loaded}
        with loaded as archive:
            if needed not in archive:
                raise UserError(f"{name} has no key '{needed}' among {sorted(archive)}")
            return {key: archive[key] for key in ("samples", "mask", "truth") if key in archive}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{name} cannot be read: {error}") from error


def _stack(named: list[tuple[str, np.ndarray]]) -> np.ndarray:
    first, image = named[0]
    for other, another in named:
        if another.shape != image.shape:
            raise ValueError(f"{first} has shape {image.shape} and {other} {another.shape}; give images of one size")
    return np.stack([image for _, image in named])


def _check_numbers(array: np.ndarray, name: str) -> None:
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool) or np.iscomplexobj(array):
        raise UserError(f"{name} holds {array.dtype}; real numbers are needed")
    if array.size == 0:
        raise UserError(f"{name} is empty, of shape {array.shape}")


# --- Checking against a model ---


def _fit_shape(array: np.ndarray, experiment: Experiment, name: str) -> np.ndarray:
    """[n, *shape] of what may lack the batch axis or the axis of one channel."""
    dims, channels = len(experiment.shape), experiment.shape[-1]
    wanted = " x ".join(map(str, experiment.shape))
    if dims == 1:
        batched = array[None] if array.ndim == 1 else array
        if batched.ndim != 2 or batched.shape[1] != channels:
            raise UserError(
                f"{name} has shape {array.shape}; the model takes vectors: ({channels},) or (n, {channels})"
            )
        return batched
    batched = array
    if channels == 1 and (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] != 1)):
        batched = batched[..., None]
    if batched.ndim == 3:
        batched = batched[None]
    if batched.ndim != 4 or batched.shape[-1] != channels:
        raise UserError(
            f"{name} has shape {array.shape}; the model takes images of {wanted} (height, width, channels): "
            "one, or n of them in front"
        )
    check_size(experiment, batched.shape[1], batched.shape[2], flag=name)
    return batched


def _fit_values(array: np.ndarray, mask: np.ndarray, name: str, binary: bool, levels: int | None) -> np.ndarray:
    """As float32, 0 where `mask` is False; what it holds elsewhere must be bits, pixels (if `levels`), or finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.where(mask, array, 0).astype(np.float32)
    _refuse(~np.isfinite(values), values, name, "finite numbers are needed" + ("" if mask.all() else " where observed"))
    if binary:
        _refuse((values != 0) & (values != 1), values, name, "bits are needed, 0 or 1")
    elif levels is not None:
        if array.dtype == bool:
            raise UserError(f"{name} holds booleans; the model takes pixels, integers from 0 to {levels - 1}")
        outside = (values != np.round(values)) | (values < 0) | (values > levels - 1)
        _refuse(outside, values, name, f"the model takes pixels, integers from 0 to {levels - 1}")
    return values


def _refuse(bad: np.ndarray, values: np.ndarray, name: str, wanted: str) -> None:
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        raise UserError(f"{name} holds {values[index]:g} at {list(index)}; {wanted}")


def _fit_truth(
    examples: Examples, shape: tuple[int, ...], experiment: Experiment, levels: int | None
) -> np.ndarray | None:
    """The key `truth` as float32 of the observations' shape [n, *shape]."""
    if examples.truth is None:
        return None
    name = f"{examples.name}, key 'truth',"
    truth = _fit_shape(examples.truth, experiment, name)
    if truth.shape != shape:
        raise UserError(f"{name} has shape {examples.truth.shape}; that of the samples is {examples.samples.shape}")
    return _fit_values(truth, np.ones(shape, bool), name, _binary(experiment), levels)


def _binary(experiment: Experiment) -> bool:
    return experiment.config.kernel == "binomial"  # type: ignore[no-any-return]


# --- Observations ---


def inpainting(
    examples: Examples,
    experiment: Experiment,
    standardization: Standardization,
    mask: str | None,
    seed: int = 0,
) -> Observations:
    """Examples seen in part, exactly.

    Where the mask is a preset, the examples were whole, and are the truth; unless they hold NaN where it
    hides, or had a mask or a truth of their own. Otherwise the truth is their key `truth`.

    Args:
      examples: what was found; NaN where hidden is as good as a number.
      experiment: the model, which says what fits.
      standardization: of its data.
      mask: a preset (see `preset_mask`); or a file: `.npy`, `.npz` (key `mask`), or images, one for all or one an
        example, other than 0 where observed; None for the examples' own.
      seed: of the preset `random`.

    Raises:
      UserError: if examples or mask do not fit the model, or nothing is observed, or nothing hidden.
    """
    binary, levels = _binary(experiment), standardization.levels
    samples = _fit_shape(examples.samples, experiment, examples.name)
    num, shape = len(samples), samples.shape[1:]
    whole = False
    if mask is None:
        if examples.mask is None:
            raise UserError(
                f"--mask: is needed, as {examples.name.split(': ')[-1]} has no key 'mask'; a file, or {PRESETS}"
            )
        name = f"{examples.name}, key 'mask',"
        observed = _fit_mask(examples.mask, num, shape, name)
    elif _is_preset(mask):
        name = f"--mask={mask}"
        observed = preset_mask(mask, num, shape, seed)
        whole = examples.mask is None and bool(np.isfinite(samples).all())
    else:
        name = f"--mask: {mask}"
        observed = _fit_mask(_read_mask(mask), num, shape, name)
    _check_mask(observed, name)
    y = _fit_values(samples, observed, examples.name, binary, levels)
    truth = _fit_truth(examples, samples.shape, experiment, levels)
    if truth is None and whole:
        truth = _fit_values(samples, np.ones_like(observed), examples.name, binary, levels)
    return Observations(y, observed, 0.0, truth)


def denoising(
    examples: Examples,
    experiment: Experiment,
    standardization: Standardization,
    noise: float,
    add_noise: bool = False,
    seed: int = 0,
) -> Observations:
    """Examples seen whole, through noise.

    Args:
      examples: what was found, with the noise on it; of pixels, any real numbers.
      experiment: the model, which says what fits.
      standardization: of its data.
      noise: its standard deviation in the data's own units; of bits, the probability that one was flipped.
      add_noise: whether the examples are without noise, and it is to be added here; they are the truth then.
      seed: of the noise added.

    Raises:
      UserError: if the examples do not fit the model, or are not whole; or the noise is out of range.
    """
    binary = _binary(experiment)
    if binary and not 0 < noise < 0.5:
        raise UserError(
            f"--noise_sigma: for bits, the probability that one was flipped; must lie in (0, 0.5), got {noise:g}"
        )
    if not (0 < noise < math.inf):
        raise UserError(f"--noise_sigma: must be above 0 and finite, in the data's own units, got {noise:g}")
    if examples.mask is not None:
        raise UserError(f"{examples.name} has a key 'mask'; what is seen in part is for --inpaint")
    if add_noise and examples.truth is not None:
        raise UserError(f"--add_noise: {examples.name} has a key 'truth', so it has noise already")
    samples = _fit_shape(examples.samples, experiment, examples.name)
    observed = np.ones(samples.shape, bool)
    if add_noise:
        truth = _fit_values(samples, observed, examples.name, binary, standardization.levels)
        return Observations(_add_noise(truth, noise, binary, seed), observed, noise, truth)
    # Noise carries pixels between the grey levels and out of their range.
    y = _fit_values(samples, observed, examples.name, binary, levels=None)
    return Observations(y, observed, noise, _fit_truth(examples, samples.shape, experiment, standardization.levels))


def _add_noise(x: np.ndarray, noise: float, binary: bool, seed: int) -> np.ndarray:
    """Noise of its own for each example [n, *shape], the same however many there are."""
    streams = [np.random.default_rng([seed, i]) for i in range(len(x))]
    if binary:
        flips = np.stack([rng.random(x.shape[1:]) < noise for rng in streams])
        return np.where(flips, 1 - x, x).astype(np.float32)
    return np.stack(
        [
            one + np.float32(noise) * rng.standard_normal(one.shape, np.float32)
            for one, rng in zip(x, streams, strict=True)
        ]
    )


# --- Masks ---


def _is_preset(mask: str) -> bool:
    return mask.partition(":")[0] in ("left", "centre", "random")


def preset_mask(preset: str, num: int, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """A mask by the name of what it hides: [num, *shape], True where observed, all channels of a pixel alike.

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


def _read_mask(path: str) -> np.ndarray:
    name = f"--mask: {path}"
    if not Path(path).exists():
        raise UserError(f"{name} is no file or preset; presets hide {PRESETS}")
    mask = _load(path, "mask", name)["mask"]
    _check_numbers(mask, name)
    # Images: any of the channels.
    return mask if Path(path).suffix in (".npz", ".npy") else mask.max(axis=-1, keepdims=True)


def _fit_mask(mask: np.ndarray, num: int, shape: tuple[int, ...], name: str) -> np.ndarray:
    """As bool [num, *shape], from one for all or one an example, with channels or without."""
    _check_numbers(mask, name)
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


def _check_mask(mask: np.ndarray, name: str) -> None:
    flat = mask.reshape(len(mask), -1)
    for bad, what in ((~flat.any(axis=1), "hides everything"), (flat.all(axis=1), "hides nothing")):
        if bad.any():
            raise UserError(f"{name} {what} of example {int(np.argmax(bad))}; some must be observed and some hidden")


# --- Results ---


class Scores(NamedTuple):
    """How far from the truth, of each of n observations.

    Attributes:
      measure: what is measured, and over which values, in words.
      num_draws: N, from the posterior of each.
      observed: [n], of the observation itself; None where it has nothing to say (it is hidden).
      single: [n], of a draw, the mean over N.
      mean: [n], of the mean of the draws (of bits, of their majority); None where there is one.
    """

    measure: str
    num_draws: int
    observed: np.ndarray | None
    single: np.ndarray
    mean: np.ndarray | None


def psnr(x: np.ndarray, truth: np.ndarray, where: np.ndarray | None = None, peak: float = 255.0) -> np.ndarray:
    """Peak signal-to-noise ratio in dB, 10 log10(peak^2 / mean squared error), of each image; infinite if equal.

    Args:
      x: [n, *shape].
      truth: [n, *shape].
      where: bool [n, *shape], the values that count; all if None.
      peak: the range of the values, in their unit.

    Returns:
      [n] float64.
    """
    with np.errstate(divide="ignore"):
        result: np.ndarray = 10 * np.log10(peak**2 / _mean_square(x, truth, where))
    return result


def _mean_square(x: np.ndarray, truth: np.ndarray, where: np.ndarray | None) -> np.ndarray:
    error = np.asarray(x, np.float64) - truth
    axes = tuple(range(1, error.ndim))
    result: np.ndarray = np.mean(error**2, axis=axes, where=True if where is None else where)
    return result


def score(observations: Observations, draws: np.ndarray, binary: bool, levels: int | None) -> Scores | None:
    """Draws from the posterior against the truth; None where it is not known.

    Images are scored by PSNR, other vectors by their root mean squared error, bits by the fraction of wrong
    ones (a tie of the majority is half wrong): over the hidden values, or over all where none is.

    Args:
      observations: n of them.
      draws: [n, N, *shape], in the data's own units.
      binary: whether they are bits.
      levels: of pixels; None where they are real numbers, whose peak is the range of the truth.
    """
    truth = observations.truth
    if truth is None:
        return None
    hidden = None if observations.mask.all() else ~observations.mask
    peak = float(levels - 1 if levels else truth.max() - truth.min())
    if binary:
        measure = "fraction of wrong bits"
    elif truth.ndim == 4:
        measure = f"PSNR in dB, peak {peak:g}"
    else:
        measure = "root mean squared error"

    def of(x: np.ndarray) -> np.ndarray:
        if binary:
            # Of bits and ties alike: |1/2 - bit| is a half.
            axes = tuple(range(1, truth.ndim))
            wrong: np.ndarray = np.mean(np.abs(x - truth), axis=axes, where=True if hidden is None else hidden)
            return wrong
        return psnr(x, truth, hidden, peak) if truth.ndim == 4 else np.sqrt(_mean_square(x, truth, hidden))

    num = draws.shape[1]
    mean = _mean(draws)
    whole = "all values" if hidden is None else "hidden values"
    return Scores(
        f"{measure}, over {whole}",
        num,
        of(observations.y) if hidden is None else None,
        np.mean([of(draws[:, i]) for i in range(num)], axis=0),
        None if num == 1 else of((np.sign(mean - 0.5) + 1) / 2 if binary else mean),
    )


def _mean(draws: np.ndarray) -> np.ndarray:
    """Over the draws [n, N, *shape], float32."""
    result: np.ndarray = draws.mean(axis=1, dtype=np.float64).astype(np.float32)
    return result


def table(scores: Scores) -> str:
    """For the screen."""
    num = len(scores.single)
    lines = [f"{scores.measure}; {num} observation{'s' if num > 1 else ''}"]
    rows = [
        ("the observation itself", scores.observed),
        ("a draw" if scores.num_draws == 1 else f"single draws, mean of {scores.num_draws}", scores.single),
        (f"{'majority' if 'bits' in scores.measure else 'mean'} of the {scores.num_draws} draws", scores.mean),
    ]
    for name, values in rows:
        if values is not None:
            spread = values.std(ddof=1) / num**0.5 if num > 1 and np.isfinite(values).all() else None
            lines.append(f"  {name:<28} {values.mean():>9.4g}" + ("" if spread is None else f" +- {spread:.2g}"))
    return "\n".join(lines)


def results(observations: Observations, draws: np.ndarray) -> dict[str, np.ndarray]:
    """What is written, for np.savez.

    Args:
      observations: n of them.
      draws: [n, N, *shape], in the data's own units.

    Returns:
      samples: the draws [n, N, *shape]; mean: of the N, [n, *shape] float32; observed: y, 0 where hidden;
      mask; and truth, where known.
    """
    known = {} if observations.truth is None else {"truth": observations.truth}
    return {
        "samples": draws,
        "mean": _mean(draws),
        "observed": observations.y,
        "mask": observations.mask,
        **known,
    }

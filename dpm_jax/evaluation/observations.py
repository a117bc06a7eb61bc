"""Observations that a posterior is conditioned on: examples seen in part (inpainting) or with noise (denoising)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from dpm_jax.data import Standardization
from dpm_jax.data.standardization import FARTHEST
from dpm_jax.errors import UserError
from dpm_jax.evaluation import masks
from dpm_jax.evaluation.examples import Examples, check_numbers
from dpm_jax.training.experiment import Experiment, check_size

__all__ = ["Observations", "denoising", "fit_examples", "fit_shape", "fit_values", "inpainting"]


class Observations(NamedTuple):
    """Examples, seen in part or through noise, in the data's own units.

    Attributes:
      y: [n, *shape] float64: pixels 0..255 (the integer itself, not the middle of its step), bits 0 and 1, points;
        0 where not observed, so that nothing of the truth is in it.
      mask: [n, *shape] bool, True where observed.
      noise: standard deviation of the noise in the data's own units, 0 for none; of bits, the probability that
        one was flipped.
      truth: [n, *shape] float64; None where it is not known.
    """

    y: np.ndarray
    mask: np.ndarray
    noise: float
    truth: np.ndarray | None


# --- Checking against a model ---


def fit_shape(array: np.ndarray, experiment: Experiment, standardization: Standardization, name: str) -> np.ndarray:
    """Return as [n, *shape] what may lack the batch axis or the axis of one channel; images may have another size.

    Args:
      array: examples in the data's own units.
      experiment: the model, which says what fits.
      standardization: of its data.
      name: of the array in messages.

    Raises:
      UserError: if it has another shape.
    """
    shape = standardization.raw_shape(experiment.shape)
    dims, channels = len(shape), shape[-1]
    wanted = " x ".join(map(str, shape))
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


def fit_examples(
    array: np.ndarray, experiment: Experiment, standardization: Standardization, name: str
) -> tuple[np.ndarray, bool]:
    """Check whole examples of the size that a model was trained on.

    Args:
      array: [N, *shape] in the data's own units, or one example [*shape]; the axis of a single channel may be absent.
      experiment: the model, which says what fits.
      standardization: of its data.
      name: of the array in messages.

    Returns:
      [N, *shape] float64; whether the array was one example, without a batch axis.

    Raises:
      UserError: if the array has another shape, or one that can be read in two ways; or holds NaN, or values that no
        example has.
    """
    check_numbers(array, name)
    shape = standardization.raw_shape(experiment.shape)
    single = [array[None]] if array.shape == shape else []
    batch = [array] if array.shape[1:] == shape else []
    if len(shape) == 3 and shape[-1] == 1:
        single += [array[None, ..., None]] if array.shape == shape[:-1] else []
        batch += [array[..., None]] if array.shape[1:] == shape[:-1] else []
    wanted = ", ".join(map(str, shape))
    if single and batch:
        raise UserError(f"{name} has shape {array.shape}, which is one example or several; give (N, {wanted})")
    if not single and not batch:
        raise UserError(f"{name} has shape {array.shape}; the model takes (N, {wanted}), or one example {shape}")
    whole = (single or batch)[0]
    return fit_values(whole, np.ones(whole.shape, bool), name, experiment.binary, standardization), bool(single)


def fit_values(
    array: np.ndarray, mask: np.ndarray, name: str, binary: bool, standardization: Standardization, noisy: bool = False
) -> np.ndarray:
    """Return as float64, 0 where `mask` is False; refuse what, elsewhere, is not finite or no example could be.

    Args:
      array: [n, *shape].
      mask: [n, *shape].
      name: of the array in messages.
      binary: whether bits are wanted.
      standardization: of the training data.
      noisy: whether noise was added, which carries values between the integers and away from constants.

    Raises:
      UserError: naming the first value that does not fit.
    """
    values = np.where(mask, array, 0).astype(np.float64)
    whole = "" if mask.all() else " where observed"
    _refuse(~np.isfinite(values), values, name, f"finite numbers are needed{whole}")
    if binary:
        _refuse((values != 0) & (values != 1), values, name, "bits are needed, 0 or 1")
        return values
    levels = standardization.levels
    if levels is not None and not noisy:
        if array.dtype == bool:
            raise UserError(f"{name} holds booleans; the model takes pixels, integers from 0 to {levels - 1}")
        outside = (values != np.round(values)) | (values < 0) | (values > levels - 1)
        _refuse(outside, values, name, f"the model takes pixels, integers from 0 to {levels - 1}")
    seen = standardization.keep(np.arange(values.shape[-1]))
    kept = standardization.keep(values)
    _refuse_in(
        seen,
        np.abs(kept - standardization.mean) > FARTHEST * standardization.scale,
        *(values, mask, name, "the training data are too far away for float32"),
    )
    if levels is None and not noisy:
        _refuse_in(seen, standardization.integers & (kept != np.floor(kept)), values, mask, name, "integers are needed")
        for column, value in standardization.constants.items():
            other = ~np.isclose(values[..., [column]], value, rtol=1e-6, atol=0)
            _refuse_in([column], other, values, mask, name, f"all training data have {value!r} there")
    return values


def _refuse_in(columns: Any, bad: np.ndarray, values: np.ndarray, mask: np.ndarray, name: str, wanted: str) -> None:
    """Refuse what is bad in some columns, where it is observed."""
    whole = np.zeros(values.shape, bool)
    whole[..., columns] = bad
    _refuse(whole & mask, values, name, wanted)


def _refuse(bad: np.ndarray, values: np.ndarray, name: str, wanted: str) -> None:
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        raise UserError(f"{name} holds {values[index]:g} at {list(index)}; {wanted}")


def _fit_truth(
    examples: Examples, shape: tuple[int, ...], experiment: Experiment, standardization: Standardization
) -> np.ndarray | None:
    """Return the key `truth` as float64 of the observations' shape [n, *shape]."""
    if examples.truth is None:
        return None
    name = f"{examples.name}, key 'truth',"
    truth = fit_shape(examples.truth, experiment, standardization, name)
    if truth.shape != shape:
        raise UserError(f"{name} has shape {examples.truth.shape}; that of the samples is {examples.samples.shape}")
    return fit_values(truth, np.ones(shape, bool), name, experiment.binary, standardization)


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
      mask: a preset (see `masks`); or a file: `.npy`, `.npz` (key `mask`), or images, one for all or one an
        example, other than 0 where observed; None for the examples' own.
      seed: of the preset `random`.

    Raises:
      UserError: if examples or mask do not fit the model, or nothing is observed, or nothing hidden.
    """
    binary = experiment.binary
    samples = fit_shape(examples.samples, experiment, standardization, examples.name)
    num, shape = len(samples), samples.shape[1:]
    whole = False
    if mask is None:
        if examples.mask is None:
            raise UserError(
                f"--mask: is needed, as {examples.name.split(': ')[-1]} has no key 'mask'; a file, or {masks.PRESETS}"
            )
        name = f"{examples.name}, key 'mask',"
        observed = masks.fit(examples.mask, num, shape, name)
    elif masks.is_preset(mask):
        name = f"--mask={mask}"
        observed = masks.preset_mask(mask, num, shape, seed)
        whole = examples.mask is None and bool(np.isfinite(samples).all())
    else:
        name = f"--mask: {mask}"
        observed = masks.fit(masks.read(mask), num, shape, name)
    masks.check(standardization.keep(observed), name)
    y = fit_values(samples, observed, examples.name, binary, standardization)
    truth = _fit_truth(examples, samples.shape, experiment, standardization)
    if truth is None and whole:
        truth = fit_values(samples, np.ones_like(observed), examples.name, binary, standardization)
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
    binary = experiment.binary
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
    samples = fit_shape(examples.samples, experiment, standardization, examples.name)
    observed = np.ones(samples.shape, bool)
    if add_noise:
        truth = fit_values(samples, observed, examples.name, binary, standardization)
        return Observations(_add_noise(truth, noise, binary, seed), observed, noise, truth)
    # Noise carries pixels between the grey levels and out of their range.
    y = fit_values(samples, observed, examples.name, binary, standardization, noisy=True)
    return Observations(y, observed, noise, _fit_truth(examples, samples.shape, experiment, standardization))


def _add_noise(x: np.ndarray, noise: float, binary: bool, seed: int) -> np.ndarray:
    """Draw independent noise for each example [n, *shape]; that of an example does not depend on their number."""
    streams = [np.random.default_rng([seed, i]) for i in range(len(x))]
    if binary:
        flips = np.stack([rng.random(x.shape[1:]) < noise for rng in streams])
        return np.where(flips, 1 - x, x)
    normal = [rng.standard_normal(one.shape, np.float32) for one, rng in zip(x, streams, strict=True)]
    return x + noise * np.stack(normal).astype(np.float64)

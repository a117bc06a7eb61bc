"""Measures of image models beside K: a Parzen estimate, and whether samples are copies of training images."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax import Array

from dpm_jax.data import Source
from dpm_jax.errors import UserError
from dpm_jax.evaluation import neighbours, parzen
from dpm_jax.evaluation.samples import draw
from dpm_jax.evaluation.table import aligned
from dpm_jax.training.experiment import Experiment, Params

__all__ = ["Pairs", "ParzenReport", "check_parzen", "nearest_training", "parzen_report", "parzen_table"]

# The most training images that a sample is compared with, and the most bytes of them.
_MAX_REFERENCES, _MAX_BYTES = 60_000, 2**29


class ParzenReport(NamedTuple):
    """Parzen-window log-likelihoods of test images in [0, 1]; see `parzen`.

    Attributes:
      model: from samples of the model.
      training: from as many training images as samples, what a perfect model would reach.
    """

    model: parzen.Parzen
    training: parzen.Parzen


class Pairs(NamedTuple):
    """Samples and the training images nearest to them.

    Attributes:
      samples: [n, H, W, C], in the data's own units.
      nearest: [n, H, W, C].
      num_training: how many training images, or random crops of them, were looked at.
      distance: [n] Euclidean, in the model's units, divided by sqrt(H W C): 0 for a copy; about 1.4 if unrelated.
    """

    samples: np.ndarray
    nearest: np.ndarray
    num_training: int
    distance: np.ndarray


def check_parzen(source: Source, num_samples: int) -> np.ndarray:
    """Return the training images of a Parzen estimate, [2 num_samples, H, W, C] uint8.

    Raises:
      UserError: if the data are not a fixed set of 8-bit images, or too few.
    """
    if source.train_examples is None or source.num_held_out is None or source.standardization.levels is None:
        raise UserError("--parzen: needs a dataset of 8-bit images that has a test set")
    training = source.train_examples(2 * num_samples)
    if len(training) < 2 * num_samples:
        raise UserError(
            f"--parzen_samples: {num_samples} need {2 * num_samples} training images, there are {len(training)}"
        )
    return training


def parzen_report(
    key: Array,
    experiment: Experiment,
    params: Params,
    source: Source,
    num_samples: int,
    report: Callable[[str], None] = print,
) -> ParzenReport:
    """Follow the protocol of Goodfellow et al. 2014: all test images, bandwidth chosen on training images.

    They keep the latter out of training; here the model has seen them, which would favour too
    narrow a window for a model that has memorised them. Draws from the training images have not.

    Args:
      key: PRNG key of the samples.
      experiment: what was trained.
      params: its parameters.
      source: its data.
      num_samples: of the model, and of the training images in their place; 10 000 in the literature.
      report: called with a line before each long computation.

    Raises:
      UserError: if the data are not a fixed set of 8-bit images, or too few.
    """
    training = check_parzen(source, num_samples)
    # The training images that stand in for samples are not those that choose the bandwidth.
    validation, perfect = _unit_range(training[:num_samples]), _unit_range(training[num_samples:])
    held_out = source.held_out(jax.random.key(0), source.num_held_out or 0)
    test = _unit_range(np.asarray(source.standardization.invert(held_out)))
    report(f"drawing {num_samples} samples for the Parzen estimate")
    samples = _unit_range(draw(key, experiment, params, source.standardization, num_samples))
    return ParzenReport(parzen.evaluate(samples, validation, test), parzen.evaluate(perfect, validation, test))


def _unit_range(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.float32) / 255


def parzen_table(result: ParzenReport) -> str:
    """For the screen."""
    rows = [
        (name, row.nats, row.bits, f"{row.bandwidth:.3f}{', the end of the candidates' * row.bandwidth_at_end}")
        for name, row in (("samples of the model", result.model), ("training images in their place", result.training))
    ]
    title = f"Parzen-window log-likelihood of {result.model.num_points} test images, {result.model.num_samples} samples"
    return aligned(title, rows, ("", "nats", "bits", "bandwidth"), ".1f")


def nearest_training(samples: np.ndarray, source: Source) -> Pairs | None:
    """Return the training image nearest to each sample [n, *shape]; None where every training image is fresh."""
    if source.train_examples is None:
        return None
    references = source.train_examples(min(_MAX_REFERENCES, _MAX_BYTES // samples[0].nbytes))
    # Pixels are compared as they are, real numbers in the model's units: their own may lie at any offset.
    units = source.standardization
    pixels = units.levels is not None
    found = neighbours.nearest(*((samples, references) if pixels else map(units.centres, (samples, references))))
    scale = (float(units.scale) if pixels else 1.0) * samples[0].size ** 0.5
    return Pairs(samples, references[found.indices[:, 0]], len(references), found.distances[:, 0] / scale)

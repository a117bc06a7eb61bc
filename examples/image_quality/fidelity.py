"""How like real images a model's samples are, in the eyes of a classifier: distance of features, certainty, variety.

Each figure stands beside the same figure of training images in the samples' place, at the same number of images,
against the same test images: what a model that has learnt the law of the training images would show, to within the
errors. Beyond the bias its distance is not zero: the classifier was trained on these very images, and test images may
have another origin, as those of MNIST are by other writers. A model that copies its training images would show the
same; `neighbours` sees that.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dpm_jax.evaluation.estimate import Estimate
from dpm_jax.units import bits
from examples.image_quality import classifier as classifiers
from examples.image_quality import frechet
from examples.image_quality.classifier import Classifier
from examples.image_quality.frechet import Frechet

__all__ = ["Fidelity", "Likeness", "fidelity", "table"]


class Likeness(NamedTuple):
    """Measures of a set of images by a classifier.

    Attributes:
      frechet: squared distance of their features from those of the test images; see `frechet`.
      confidence: mean probability of the class that an image is taken for.
      classes: how many are taken for each class.
      entropy_bits: of that histogram; log2 of the number of classes where all are drawn alike, 0 where only one is.
    """

    frechet: Frechet
    confidence: Estimate
    classes: list[int]
    entropy_bits: float


class Fidelity(NamedTuple):
    """Samples of a model beside training images in their place.

    Attributes:
      model: of the samples.
      training: of as many training images.
      num_samples: of each.
      num_reference: test images that both are compared with.
      accuracy: of the classifier, on its test images.
      digest: of the classifier: distances under another digest are other numbers.
    """

    model: Likeness
    training: Likeness
    num_samples: int
    num_reference: int
    accuracy: Estimate
    digest: str


def fidelity(classifier: Classifier, samples: np.ndarray, training: np.ndarray, reference: np.ndarray) -> Fidelity:
    """Compare samples, and training images in their place, with test images.

    Args:
      classifier: see `classifier`.
      samples: [N, H, W, C] uint8 of a model, N >= 3; thousands, or the distance is mostly bias.
      training: [N, H, W, C] uint8, as many: the bias is that of N.
      reference: [M, H, W, C] uint8 that neither model nor classifier was trained on, M >= 3.

    Raises:
      ValueError: if images are not of the classifier's shape, too few, or not as many training images as samples.
    """
    if len(training) != len(samples):
        raise ValueError(f"training: as many images as samples are needed, {len(samples)}, got {len(training)}")
    references = classifiers.features(classifier, reference)
    return Fidelity(
        model=_likeness(classifier, samples, references),
        training=_likeness(classifier, training, references),
        num_samples=len(samples),
        num_reference=len(reference),
        accuracy=Estimate(classifier.accuracy, classifier.accuracy_stderr),
        digest=classifiers.digest(classifier),
    )


def _likeness(classifier: Classifier, images: np.ndarray, references: np.ndarray) -> Likeness:
    found = classifiers.examine(classifier, images)
    counts = classifiers.histogram(classifier, found)
    return Likeness(
        frechet=frechet.distance(found.features, references),
        confidence=Estimate.of(found.confidence),
        classes=counts.tolist(),
        entropy_bits=_entropy_bits(counts),
    )


def _entropy_bits(counts: np.ndarray) -> float:
    fractions = counts[counts > 0] / counts.sum()
    return float(bits(-(fractions * np.log(fractions)).sum()))


def table(result: Fidelity) -> str:
    """For the screen."""
    r, classes = result, len(result.model.classes)
    lines = [
        f"{r.num_samples} samples against {r.num_reference} test images, by a classifier trained here "
        f"(test accuracy {100 * r.accuracy.mean:.2f} +- {100 * r.accuracy.stderr:.2f} %, digest {r.digest})",
        f"  {'':<32} {'Frechet distance^2':>20} {'confidence':>17} {'classes':>16}",
    ]
    for name, row in (("samples of the model", r.model), ("training images in their place", r.training)):
        apart = f"{row.frechet.value:.3f} +- {row.frechet.stderr:.3f}"
        certain = f"{row.confidence.mean:.4f} +- {row.confidence.stderr:.4f}"
        lines.append(f"  {name:<32} {apart:>20} {certain:>17} {row.entropy_bits:>6.3f} of {np.log2(classes):.3f} bits")
    lines.append("  Not FID: another network, other features. Compare under one digest, at the same numbers of images.")
    return "\n".join(lines)

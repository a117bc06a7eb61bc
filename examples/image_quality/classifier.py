"""A classifier trained here, on labelled images of the data: its features are what samples are compared by.

It stands in for the Inception network of FID and of the Inception score, which knows photographs and not digits. Its
features are its own: a distance between them means something beside another distance between the same features only,
so a trained classifier is saved, used again, and identified by its digest. Its quality is its accuracy on test images.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array

from dpm_jax.data.image_set import Labelled
from dpm_jax.errors import UserError, writing
from dpm_jax.numerics.shapes import chunk_size
from examples.image_quality.network import ConvClassifier, Outputs

__all__ = ["Classifier", "Opinions", "digest", "examine", "features", "histogram", "load", "save", "train"]

_BATCH_SIZE, _LEARNING_RATE = 128, 2e-3
_MAX_CHUNK = 10_000
# Beside the parameters in a file.
_MEASURED = ("accuracy", "accuracy_stderr", "num_test")


class Classifier(NamedTuple):
    """A trained classifier and what it is worth.

    Attributes:
      params: of `ConvClassifier`.
      shape: (H, W, C) of the images.
      num_classes: how many.
      accuracy: fraction of the test images that it is right about.
      accuracy_stderr: its standard error over test images.
      num_test: how many those were.
    """

    params: Any
    shape: tuple[int, ...]
    num_classes: int
    accuracy: float
    accuracy_stderr: float
    num_test: int


class Opinions(NamedTuple):
    """Outputs of a classifier for N images.

    Attributes:
      features: [N, d] float32.
      classes: [N] int64, the most probable.
      confidence: [N] float32, the probability of that one.
    """

    features: np.ndarray
    classes: np.ndarray
    confidence: np.ndarray


def train(
    training: Labelled,
    test: Labelled,
    seed: int = 0,
    num_epochs: int = 5,
    report: Callable[[str], None] = print,
) -> Classifier:
    """Train with Adam on the cross-entropy, learning rate falling to zero along a cosine; then test.

    A function of the data and the seed alone, on one machine. Some 8 s an epoch of the 60 000 images of MNIST on
    two CPU cores.

    Args:
      training: [N, H, W, C] images of all classes, H and W divisible by 4.
      test: images of the same shape, at least 2, never trained on.
      seed: of parameters and of the order of the images.
      num_epochs: passes over the training images; what does not fill a batch of 128 is left out of each.
      report: called with lines of progress.

    Raises:
      ValueError: if images are not uint8 of one such shape, labels do not go with them, or there are too few.
    """
    num_classes = _check_labelled(training, test)
    if num_epochs < 1:
        raise ValueError(f"num_epochs: must be at least 1, got {num_epochs}")
    batch_size = min(_BATCH_SIZE, len(training.labels))
    num_batches = len(training.labels) // batch_size
    network = ConvClassifier(num_classes)
    optimizer = optax.adam(optax.cosine_decay_schedule(_LEARNING_RATE, num_epochs * num_batches))
    init_key, order_key = jax.random.split(jax.random.key(seed))
    params = _init(network, init_key, training.images.shape[1:])
    opt_state = optimizer.init(params)
    images, labels = jnp.asarray(training.images), jnp.asarray(training.labels)

    # One dispatch an epoch.
    @jax.jit
    def epoch(params: Any, opt_state: Any, key: Array, images: Array, labels: Array) -> tuple[Any, Any, Array]:
        def step(carry: tuple[Any, Any], index: Array) -> tuple[tuple[Any, Any], Array]:
            params, opt_state = carry
            loss, gradient = jax.value_and_grad(_loss, argnums=1)(network, params, images[index], labels[index])
            updates, opt_state = optimizer.update(gradient, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), loss

        order = jax.random.permutation(key, len(labels))[: num_batches * batch_size]
        carry, losses = jax.lax.scan(step, (params, opt_state), order.reshape(num_batches, batch_size))
        return *carry, losses.mean()

    for number in range(num_epochs):
        key = jax.random.fold_in(order_key, number)
        params, opt_state, loss = epoch(params, opt_state, key, images, labels)
        report(f"classifier: epoch {number + 1} of {num_epochs}, cross-entropy {float(loss):.4f} nats")
    return _tested(params, num_classes, test)


def _check_labelled(training: Labelled, test: Labelled) -> int:
    """How many classes there are."""
    shape = training.images.shape[1:]
    for name, part, fewest in (("training", training, 1), ("test", test, 2)):
        _check_images(name, part.images, shape)
        if part.labels.shape != (len(part.images),) or not np.issubdtype(part.labels.dtype, np.integer):
            raise ValueError(f"{name}: labels must be [{len(part.images)}] integers, got shape {part.labels.shape}")
        if len(part.labels) < fewest:
            raise ValueError(f"{name}: at least {fewest} labelled images are needed, got {len(part.labels)}")
    num_classes = int(training.labels.max()) + 1
    for name, part in (("training", training), ("test", test)):
        if part.labels.min() < 0 or part.labels.max() >= num_classes:
            raise ValueError(f"{name}: labels must be from 0 to {num_classes - 1}, the greatest of the training labels")
    return num_classes


def _check_images(name: str, images: np.ndarray, shape: tuple[int, ...]) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != shape:
        wanted = ", ".join(str(size) for size in shape) if len(shape) == 3 else "H, W, C"
        raise ValueError(f"{name}: uint8 images [N, {wanted}] are needed, got {images.dtype} of shape {images.shape}")
    if not _fits(shape):
        raise ValueError(f"{name}: height and width must be divisible by 4, got {shape[0]}x{shape[1]}")


def _fits(shape: tuple[int, ...]) -> bool:
    """Whether the network takes images of that shape."""
    return min(shape) >= 1 and shape[0] % 4 == 0 and shape[1] % 4 == 0


def _init(network: ConvClassifier, key: Array, shape: tuple[int, ...]) -> Any:
    return network.init(key, jnp.zeros((1, *shape)))["params"]


def _outputs(network: ConvClassifier, params: Any, images: Array) -> Outputs:
    outputs: Any = network.apply({"params": params}, images.astype(jnp.float32) / 255)
    return Outputs(*outputs)


def _loss(network: ConvClassifier, params: Any, images: Array, labels: Array) -> Array:
    """Mean cross-entropy of a batch, nats."""
    losses: Array = optax.softmax_cross_entropy_with_integer_labels(_outputs(network, params, images).logits, labels)
    return losses.mean()


def _tested(params: Any, num_classes: int, test: Labelled) -> Classifier:
    untested = Classifier(params, test.images.shape[1:], num_classes, math.nan, math.nan, len(test.labels))
    accuracy = float((examine(untested, test.images).classes == test.labels).mean())
    return untested._replace(
        accuracy=accuracy, accuracy_stderr=math.sqrt(accuracy * (1 - accuracy) / (len(test.labels) - 1))
    )


@jax.jit(static_argnums=0)
def _examine(network: ConvClassifier, params: Any, images: Array) -> tuple[Array, Array, Array]:
    outputs = _outputs(network, params, images)
    probabilities = jax.nn.softmax(outputs.logits)
    return outputs.features, probabilities.argmax(-1), probabilities.max(-1)


def examine(classifier: Classifier, images: np.ndarray) -> Opinions:
    """Features, most probable class and its probability, of each image.

    In chunks, so beyond the arguments and the result memory is some 100 MB however many there are.

    Args:
      classifier: see `train`.
      images: [N, H, W, C] uint8, N >= 1, of the classifier's shape.

    Raises:
      ValueError: if the images are none of those.
    """
    images = np.asarray(images)
    _check_images("images", images, classifier.shape)
    if len(images) == 0:
        raise ValueError(f"images: empty, shape {images.shape}")
    network = ConvClassifier(classifier.num_classes)
    chunks = np.array_split(images, -(-len(images) // chunk_size(classifier.shape, _MAX_CHUNK)))
    # Accelerators would round to three digits.
    with jax.default_matmul_precision("highest"):
        parts = [[np.asarray(a) for a in _examine(network, classifier.params, jnp.asarray(chunk))] for chunk in chunks]
    found, classes, confidence = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Opinions(found, classes.astype(np.int64), confidence)


def features(classifier: Classifier, images: np.ndarray) -> np.ndarray:
    """Return the features before the last layer, [N, d] float32; arguments as for `examine`."""
    return examine(classifier, images).features


def histogram(classifier: Classifier, opinions: Opinions) -> np.ndarray:
    """How many images it takes for each class, [num_classes] int64."""
    return np.bincount(opinions.classes, minlength=classifier.num_classes)


def _arrays(classifier: Classifier) -> dict[str, np.ndarray]:
    """Return the parameters by their paths."""
    return {name: np.asarray(value) for name, value in flatten_dict(classifier.params, sep="/").items()}


def digest(classifier: Classifier) -> str:
    """Eight hexadecimal digits that tell one set of parameters, so of features, from another."""
    total = hashlib.sha256()
    for name, array in sorted(_arrays(classifier).items()):
        total.update(name.encode() + array.tobytes())
    return total.hexdigest()[:8]


def save(path: Path, classifier: Classifier) -> None:
    """Write a classifier as a `.npz` of plain arrays.

    Raises:
      UserError: if it can't be written.
    """
    measured = {name: np.asarray(getattr(classifier, name)) for name in ("shape", *_MEASURED)}
    arrays: dict[str, Any] = measured | _arrays(classifier)
    # An open file: NumPy would change the name of a path.
    with writing(path), path.open("wb") as file:
        np.savez(file, **arrays)


def load(path: Path, shape: tuple[int, ...]) -> Classifier:
    """Read what `save` wrote, for images of this shape; pickled objects are refused.

    Raises:
      UserError: if it can't be read, is damaged, or is of images of another shape.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            classifier = _assemble({name: archive[name] for name in archive.files})
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    # Damage shows as whatever the layer that met it raises: BadZipFile, zlib.error, ValueError, KeyError, ...
    except Exception as error:
        reason = next((line.strip()[:200] for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"{path}: damaged, or no classifier: {reason}") from error
    if classifier.shape != shape:
        raise UserError(f"{path}: a classifier of images of shape {classifier.shape}, got {shape}")
    return classifier


def _assemble(found: dict[str, np.ndarray]) -> Classifier:
    """Return a classifier of the arrays of a file."""
    shape = tuple(int(size) for size in found.pop("shape"))
    measured = {name: found.pop(name).item() for name in _MEASURED}
    if len(shape) != 3 or not _fits(shape):
        raise ValueError(f"shape {shape}")
    num_classes = len(found["Dense_1/bias"])
    wanted = jax.eval_shape(lambda: _init(ConvClassifier(num_classes), jax.random.key(0), shape))
    described = {name: (value.shape, value.dtype) for name, value in flatten_dict(wanted, sep="/").items()}
    if {name: (array.shape, array.dtype) for name, array in found.items()} != described:
        raise ValueError("its arrays are not those of this version's network")
    if not all(np.isfinite(array).all() for array in found.values()):
        raise ValueError("its parameters are not finite")
    if not (0 <= measured["accuracy"] <= 1 and 0 <= measured["accuracy_stderr"] <= 1 and measured["num_test"] >= 2):
        raise ValueError(", ".join(f"{name} {value}" for name, value in measured.items()))
    params = unflatten_dict({name: jnp.asarray(array) for name, array in found.items()}, sep="/")
    return Classifier(params, shape, num_classes, **measured)

"""Where data come from: one type for all systems, so that training knows none of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dpm_jax.data import arrays, dead_leaves, heartbeat, image_set, stream, swiss_roll
from dpm_jax.data.image_set import ImageSet
from dpm_jax.data.standardization import Standardization, fit, identity, of_pixels
from dpm_jax.numerics import refuse

__all__ = [
    "Source",
    "Stream",
    "Supply",
    "dead_leaves_source",
    "heartbeat_source",
    "image_source",
    "swiss_roll_source",
    "vector_source",
]


class Stream(NamedTuple):
    """Batches made on the host.

    Attributes:
      batches: (seed, batch_size, step, process=p, num_processes=n) -> iterator of the p-th of n shares of the
        batches from that step on, [batch_size / n, *shape] in the data's own units; a function of seed and step.
      prepare: (key, batch) -> [batch_size, *shape] in the model's units, traceable.
    """

    batches: Callable[..., Iterator[np.ndarray]]
    prepare: Callable[[Array, Array], Array]


Supply = Callable[[Array, int], Array] | Stream


class Source(NamedTuple):
    """A distribution over examples, in the model's units.

    Attributes:
      shape: of one example.
      unit: what K is a number of, for tables ("bits/point", ...).
      supply: what is trained on: (key, num) -> [num, *shape], traceable; or a `Stream` from the host.
      held_out: (key, num) -> [num, *shape] never trained on.
      num_held_out: how many of those exist; None where there is no end.
      standardization: between the model's units and the data's own.
      log_prob: [B, *shape] -> [B] exact log-density in nats; None where unknown.
      mean_log_prob: E log p(x) in nats, the limit of K; None where unknown.
      support: [n, *shape] all values, equally likely; None where there are too many.
      train_examples: num -> [up to num, *shape] of what is trained on, in the data's own units; None
        where every example is fresh.
      validation: as `held_out`, of the training split, but kept apart from what is trained on: checkpoints are
        compared on these, so that the held-out examples decide nothing. None where every example is fresh.
      num_validation: how many of those exist; None where there is no end.
      binary: whether examples are bits, 0 and 1.
    """

    shape: tuple[int, ...]
    unit: str
    supply: Supply
    held_out: Callable[[Array, int], Array]
    num_held_out: int | None
    standardization: Standardization
    log_prob: Callable[[Array], Array] | None = None
    mean_log_prob: Callable[[], float] | None = None
    support: Array | None = None
    train_examples: Callable[[int], np.ndarray] | None = None
    validation: Callable[[Array, int], Array] | None = None
    num_validation: int | None = None
    binary: bool = False


def swiss_roll_source(noise: float = 0.0035) -> Source:
    """Draw points of the swiss roll, see `swiss_roll`.

    Args:
      noise: standard deviation about the curve, in units of the roll's.

    Raises:
      ValueError: if it is less than 1e-4.
    """
    refuse.within("[1e-4, inf)", noise=noise)
    nodes = swiss_roll.quadrature(noise)
    sample = partial(swiss_roll.sample, noise=noise)
    return Source(
        shape=(2,),
        unit="bits/point",
        supply=sample,
        held_out=sample,
        num_held_out=None,
        standardization=identity(),
        log_prob=partial(swiss_roll.log_prob, noise=noise, nodes=nodes),
        mean_log_prob=lambda: float(swiss_roll.mean_log_prob(noise, nodes)),
    )


def heartbeat_source(length: int = 20, period: int = 5) -> Source:
    """Draw binary heartbeats, see `heartbeat`.

    Args:
      length: bits of a sequence.
      period: bits from one beat to the next.

    Raises:
      ValueError: if either is less than 1, or the period is longer than the sequence.
    """
    refuse.within("[1, inf)", length=length, period=period)
    if period > length:
        raise ValueError(f"period: must be at most the length {length}, got {period}")
    sample = partial(heartbeat.sample, length=length, period=period)
    return Source(
        shape=(length,),
        unit="bits/sequence",
        supply=sample,
        held_out=sample,
        num_held_out=None,
        standardization=identity(),
        log_prob=partial(heartbeat.log_prob, length=length, period=period),
        mean_log_prob=lambda: -float(np.log(period)),
        support=heartbeat.sequences(length, period),
        binary=True,
    )


def dead_leaves_source(size: int = 32, channels: int = 1, r_min: float = 2.0, r_max: float = 32.0) -> Source:
    """Draw images of dead leaves, see `dead_leaves`.

    Args:
      size: height and width, pixels.
      channels: of an image.
      r_min: least radius of a leaf, pixels.
      r_max: greatest radius of a leaf, pixels.

    Raises:
      ValueError: if a size is less than 1, `r_min` is less than 0.5, or as `dead_leaves.sample`.
    """
    refuse.within("[0.5, inf)", r_min=r_min)
    standardization = _standard_dead_leaves()
    draw = partial(dead_leaves.sample, size=size, channels=channels, r_min=r_min, r_max=r_max)
    jax.eval_shape(lambda: draw(jax.random.key(0), 1))  # wrong settings are refused now

    def sample(key: Array, num: int) -> Array:
        image_key, noise_key = jax.random.split(key)
        return standardization.dequantize(noise_key, draw(image_key, num))

    return Source(
        shape=(size, size, channels),
        unit="bits/pixel",
        supply=sample,
        held_out=jax.jit(sample, static_argnums=1),
        num_held_out=None,
        standardization=standardization,
    )


def _standard_dead_leaves() -> Standardization:
    mean, std = dead_leaves.mean_and_std()
    return Standardization(np.asarray(mean), np.asarray(std), 256)


def image_source(images: ImageSet, validation: float = 0.0, integers: bool = False) -> Source:
    """Images in memory; see `image_set` and `stream`.

    Args:
      images: to train on and to evaluate on: pixels, uint8; or floating point numbers, which are standardised here.
      validation: fraction of the former that checkpoints are compared on and that is not trained on, see
        `image_set.apart`.
      integers: whether floating point numbers are integers to be dequantised.

    Raises:
      ValueError: if all pixels are the same, or fewer than 2 whole images are held out.
      ImportError: (from `batches`) if grain is not installed.
    """
    if images.crop is None and len(images.held_out) < 2:
        raise ValueError(f"{len(images.held_out)} image is held out; a standard error needs at least 2")
    standardization = of_pixels(*image_set.moments(images.train), images.levels, integers)
    prepare: Callable[[Array, Array], Array] = standardization.dequantize
    raw: Callable[[np.ndarray], np.ndarray] = np.asarray
    if images.levels is None:
        train, kept = (standardization.centres(np.asarray(part)) for part in (images.train, images.held_out))
        images = images._replace(train=train, held_out=kept)
        prepare, raw = standardization.spread, standardization.invert

    trained, validated = image_set.apart(images.train, validation, images.crop)
    images = images._replace(train=trained)

    def choose(part: image_set.Collection, rng: np.random.Generator, num: int) -> np.ndarray:
        whole = images.crop is None
        index = rng.permutation(len(part))[:num] if whole else rng.integers(0, len(part), num)
        return image_set.crops(part, index, rng.random((len(index), 2)), images.crop)

    def some(part: image_set.Collection, key: Array, num: int) -> Array:
        choice_key, noise_key = jax.random.split(key)
        chosen = choose(part, np.random.default_rng(np.asarray(jax.random.key_data(choice_key))), num)
        return prepare(noise_key, jnp.asarray(chosen))

    return Source(
        shape=images.shape,
        unit="bits/pixel",
        supply=Stream(partial(stream.batches, images), prepare),
        held_out=partial(some, images.held_out),
        num_held_out=None if images.crop else len(images.held_out),
        standardization=standardization,
        train_examples=lambda num: raw(choose(images.train, np.random.default_rng(0), num)),
        validation=partial(some, validated),
        num_validation=None if images.crop else len(validated),
    )


def vector_source(
    path: Path | str,
    data: np.ndarray,
    held_out: float,
    binary: bool,
    validation: float = 0.0,
    integers: np.ndarray | bool = False,
    leave_out: bool = False,
) -> Source:
    """Vectors [N, d] from a file, standardised column by column unless binary.

    Args:
      path: for messages.
      data: see `arrays.load`.
      held_out: fraction of the rows kept back for evaluation.
      binary: whether the kernel wants bits; the file must then hold 0 and 1 alone.
      validation: fraction of the other rows that checkpoints are compared on and that is not trained on; all of them
        are for both if it is 0.
      integers: [d] bool, the columns that are integers to be dequantised.
      leave_out: whether columns that are constant are left out for the model, and put back into its samples.

    Raises:
      ValueError: if bits are wanted and not there, or a column is constant and not left out, or the rows kept back
        differ from it there.
    """
    train, kept = arrays.split(data, held_out)
    if binary and not all(np.isin(part, (0, 1)).all() for part in (train, kept)):
        raise ValueError(f"{path} holds other values than 0 and 1, which kernel 'binomial' needs")
    try:
        standardization = identity() if binary else fit(train, integers, leave_out)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    for column, value in standardization.constants.items():
        if not np.allclose(kept[:, column], value, rtol=1e-6, atol=0):
            other = float(kept[np.argmax(np.abs(kept[:, column] - value)), column])
            raise ValueError(f"{path}: column {column} is {value!r} in all rows to train on, and {other!r} in others")
    if len(kept) < 2:
        raise ValueError(f"{path} leaves {len(kept)} row to evaluate on; raise config.data.file.held_out")
    train_rows, kept_rows = (jnp.asarray(standardization.centres(part)) for part in (train, kept))
    rows, validated = (train_rows[index] for index in arrays.apart(len(train_rows), validation))

    def supply(key: Array, num: int) -> Array:
        row_key, noise_key = jax.random.split(key)
        return standardization.spread(noise_key, rows[jax.random.randint(row_key, (num,), 0, len(rows))])

    def some(part: Array, key: Array, num: int) -> Array:
        row_key, noise_key = jax.random.split(key)
        return standardization.spread(noise_key, jax.random.permutation(row_key, part)[:num])

    return Source(
        shape=rows.shape[1:],
        unit="bits/example",
        supply=supply,
        held_out=partial(some, kept_rows),
        num_held_out=len(kept),
        standardization=standardization,
        validation=partial(some, validated),
        num_validation=len(validated),
        binary=binary,
    )

"""A source from what one's own function returns: a `Source`, an array, a sequence of examples, or a stream of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dpm_jax.data import arrays, image_set, sources, standardization
from dpm_jax.data.image_set import ImageSet
from dpm_jax.data.on_disk import array_source
from dpm_jax.data.sources import Source, Stream
from dpm_jax.data.standardization import Standardization

__all__ = ["own_source", "stream_source"]

# The first examples of a stream, which are not trained on: half of them are held out, half compare checkpoints.
_SPARED = 2048
# Share of a sequence that is held out.
_HELD_OUT = 0.1


def own_source(
    make: Callable[[], Any],
    name: str,
    *,
    binary: bool,
    crop: int | None,
    validation: float,
    report: Callable[[str], None],
) -> Source:
    """Make a source of what `make()` returns.

    It may return a `Source`; an array [N, d], [N, H, W] or [N, H, W, C]; a sequence of examples (`__len__` and
    `__getitem__`, as Grain's `MapDataset`), images being decoded when they are looked at; or an iterable of
    examples, [d], [H, W] or [H, W, C], as Grain's `IterDataset` or a generator, which is read from its beginning
    whenever training begins or resumes: it must give the same examples each time.

    Args:
      make: returns the data; called for each pass.
      name: of the data, for messages.
      binary: whether the model is of bits.
      crop: side of the random squares that are the examples, of images; None for whole images.
      validation: share of what is trained on that compares checkpoints instead.
      report: called with a line about how much was read.

    Raises:
      ValueError: if it returns none of these, or data that are not fit.
    """
    made = make()
    if isinstance(made, Source):
        return made
    if isinstance(made, ImageSet):
        return sources.image_source(made, validation)
    if isinstance(made, np.ndarray | jax.Array):
        data = arrays.checked(np.asarray(made), name)
        return array_source(data, name, binary=binary, crop=crop, validation=validation, report=report)
    if hasattr(made, "__len__") and hasattr(made, "__getitem__"):
        first = _example(made[0], name)
        if first.ndim < 3:
            data = arrays.checked(np.stack([_example(made[i], name) for i in range(len(made))]), name)
            return array_source(data, name, binary=binary, crop=crop, validation=validation, report=report)
        if crop == -1:
            raise ValueError("config.data.crop: -1 needs the sizes of all images; give a side, or 0 for whole images")
        report(f"data: {len(made)} images of {' x '.join(map(str, first.shape))} from {name}")
        return sources.image_source(image_set.split_lazily(made, _HELD_OUT, crop), validation)
    if isinstance(made, Iterable) and not isinstance(made, str | bytes):
        if crop is not None:
            raise ValueError(f"{name} is a stream, whose examples are not cut; leave config.data.crop 0")
        # What was made to be looked at serves no more: a generator can be read once.
        return stream_source(lambda: iter(make()), name, binary=binary)
    raise ValueError(
        f"{name} returns {type(made).__name__}; a Source, an array, a sequence or an iterable of examples is needed"
    )


def stream_source(begin: Callable[[], Iterator[Any]], name: str, *, binary: bool = False) -> Source:
    """Make the source of a stream of examples, of which the first 2048 (half of a shorter one) are not trained on.

    Half of those are held out, and the other half compares checkpoints. A run that resumes reads the stream up to
    where it was; a stream that ends begins again.

    Args:
      begin: returns an iterator over the examples, the same ones each time.
      name: of the stream, for messages.
      binary: whether examples are bits.

    Raises:
      ValueError: if there are fewer than 8 examples, or they are not fit.
    """
    examples = [_example(example, name) for example in itertools.islice(begin(), 2 * _SPARED)]
    if len(examples) < 8:
        raise ValueError(f"{name} gives {len(examples)} examples; at least 8 are needed")
    num_spared = min(_SPARED, len(examples) // 2)
    some = arrays.checked(np.stack(examples), name)
    units = _units(some, name, binary)
    held_out, validated = some[: num_spared // 2], some[num_spared // 2 : num_spared]

    def prepare(key: Array, batch: Array) -> Array:
        return units.dequantize(key, batch) if units.levels is not None else units.spread(key, batch)

    def on_host(batch: np.ndarray) -> np.ndarray:
        return batch if units.levels is not None else units.centres(batch)

    def trained() -> Iterator[np.ndarray]:
        while True:
            rest = itertools.islice(begin(), num_spared, None)
            first = next(rest, None)
            if first is None:
                raise ValueError(f"{name} gave {len(examples)} examples once, and at most {num_spared} now")
            for example in itertools.chain([first], rest):
                yield _example(example, name, some).astype(some.dtype)

    def batches(
        seed: int, batch_size: int, step: int = 0, *, process: int = 0, num_processes: int = 1
    ) -> Iterator[np.ndarray]:
        del seed  # The order is the stream's own.
        share = batch_size // num_processes
        rows = itertools.islice(trained(), step * batch_size, None)
        while True:
            batch = list(itertools.islice(rows, batch_size))
            yield on_host(np.stack(batch[process * share : (process + 1) * share]))

    def draw(part: np.ndarray, key: Array, num: int) -> Array:
        choice_key, noise_key = jax.random.split(key)
        chosen = np.asarray(jax.random.permutation(choice_key, len(part)))[:num]
        return prepare(noise_key, jnp.asarray(on_host(part[chosen])))

    return Source(
        shape=some.shape[1:],
        unit="bits/pixel" if some.ndim > 2 else "bits/example",
        supply=Stream(batches, prepare),
        held_out=partial(draw, held_out),
        num_held_out=len(held_out),
        standardization=units,
        train_examples=lambda num: np.stack(list(itertools.islice(trained(), num))),
        validation=partial(draw, validated),
        num_validation=len(validated),
        binary=binary,
    )


def _units(some: np.ndarray, name: str, binary: bool) -> Standardization:
    if binary:
        if some.ndim > 2 or not np.isin(some, (0, 1)).all():
            raise ValueError(f"{name} gives other values than 0 and 1, or images; kernel 'binomial' takes bits")
        return standardization.identity()
    if some.ndim == 2:
        return standardization.fit(some)
    return standardization.of_pixels(*image_set.moments(some), 256 if some.dtype == np.uint8 else None)


def _example(example: Any, name: str, like: np.ndarray | None = None) -> np.ndarray:
    """Return one example as an array, [H, W] as [H, W, 1]; refuse what is none, or unlike the others."""
    if isinstance(example, dict | str | bytes) or example is None:
        raise ValueError(f"{name} gives examples of {type(example).__name__}; arrays are needed")
    array = np.asarray(example)
    if like is None:
        if array.ndim not in (1, 2, 3):
            raise ValueError(f"{name} gives examples of shape {array.shape}; [d], [H, W] or [H, W, C] is needed")
        return array[..., None] if array.ndim == 2 else array
    array = array[..., None] if array.ndim == 2 else array
    if array.shape != like.shape[1:]:
        raise ValueError(f"{name} gives an example of shape {array.shape} among others of {like.shape[1:]}")
    return array

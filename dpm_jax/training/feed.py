"""How batches reach the train step: drawn on the device, or brought from the host, many steps' at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from dpm_jax.data.sources import Stream, Supply
from dpm_jax.errors import UserError
from dpm_jax.training import mesh

__all__ = ["Feed", "open_feed"]

# What one dispatch may bring along.
_MAX_BYTES = 2**28


class Feed(NamedTuple):
    """The data of a run.

    Attributes:
      take: num -> the next num batches, [capacity, batch_size, ...], what is beyond num being
        zeros, so that every dispatch has one shape; each process brings its share. None where nothing
        comes from the host.
      draw: (key, batch) -> x_0 [batch_size, ...], traceable; batch is one of those taken, or None.
      capacity: the most steps of one dispatch; None for no limit.
    """

    take: Callable[[int], np.ndarray | Array | None]
    draw: Callable[[Array, Any], Array]
    capacity: int | None


def open_feed(supply: Supply, seed: int, batch_size: int, step: int, most: int) -> Feed:
    """Return the feed of a run that resumes from `step`.

    Args:
      supply: of a `Source`.
      seed: of the order of the data.
      batch_size: examples a step.
      step: optimizer steps taken already.
      most: steps of a dispatch, at most.

    Raises:
      UserError: (from `take` too) if packages are missing, or an image is not fit.
    """
    if not isinstance(supply, Stream):
        return Feed(lambda num: None, lambda key, _: supply(key, batch_size), None)
    stream = supply
    process, num_processes = mesh.share(batch_size)

    def begin() -> Iterator[np.ndarray]:
        try:
            yield from stream.batches(seed, batch_size, step, process=process, num_processes=num_processes)
        except ImportError as error:
            raise UserError(f"training on images needs more packages ({error}): pip install 'dpm_jax[data]'") from error
        except ValueError as error:
            raise UserError(f"config.data: {error}") from error

    batches = begin()
    ahead = [next(batches)]
    capacity = max(1, min(most, _MAX_BYTES // ahead[0].nbytes))

    def take(num: int) -> np.ndarray | Array:
        taken = np.zeros((capacity, *ahead[0].shape), ahead[0].dtype)
        for i in range(num):
            taken[i] = ahead[0]
            ahead[0] = next(batches)
        return mesh.from_processes(taken, 1)

    return Feed(take, stream.prepare, capacity)

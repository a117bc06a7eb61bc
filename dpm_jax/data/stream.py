"""Batches of images, by Grain: shuffled, shared out among processes, read ahead.

The global batch of a step is a function of the seed and the step alone. Process p of n takes
its rows p B/n .. (p + 1) B/n, so that the processes' shares, one after another, are the batch
that one process would have taken; and a run is resumed by its step.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dpm_jax.data import image_set
from dpm_jax.data.image_set import ImageSet

__all__ = ["batches"]


def batches(
    images: ImageSet, seed: int, batch_size: int, step: int = 0, *, process: int = 0, num_processes: int = 1
) -> Iterator[np.ndarray]:
    """Return this process's share of the batches of steps `step`, `step` + 1, ..., without end.

    Each image is seen once an epoch, in an order of the epoch's own; crops are uniform over an image.

    Args:
      images: whose `train` part is read.
      seed: of the order and of the crops.
      batch_size: B, of all processes together; divisible by their number.
      step: to begin at.
      process: p in 0..n - 1.
      num_processes: n.

    Yields:
      [B / n, H, W, C] of the images' dtype.

    Raises:
      ImportError: if grain is not installed.
    """
    import grain

    share = batch_size // num_processes

    def take(number: int, index: np.ndarray) -> np.ndarray:
        place = np.zeros((share, 2))
        if images.crop is not None:
            # Of the whole batch, so that it does not matter how many processes share it.
            places = np.random.Generator(np.random.Philox(key=[seed, number])).random((batch_size, 2))
            place = places[process * share : (process + 1) * share]
        return image_set.crops(images.train, index, place, images.crop)

    order = grain.MapDataset.range(len(images.train)).seed(seed).shuffle().repeat()
    # Sliced after batching: consecutive rows stay together.
    shares = order.batch(share)[process::num_processes].map_with_index(take)
    iterator = iter(shares.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=16)))
    iterator.set_state({"next_index": step})
    return iterator  # type: ignore[no-any-return]

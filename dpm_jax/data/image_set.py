"""Images held in memory, to train on and to evaluate on: whole, or as random crops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, overload

import numpy as np

from dpm_jax.data import arrays

__all__ = [
    "Collection",
    "ImageSet",
    "Labelled",
    "apart",
    "check_shapes",
    "choose_crop",
    "collect",
    "crops",
    "moments",
    "split",
    "split_lazily",
]

# [N, H, W, C] where all have one size; one [H, W, C] after another where they have not, or where
# each is decoded when it is looked at.
Collection = np.ndarray | Sequence[np.ndarray]

# Images that mean and variance are computed from, where looking at one may mean decoding it.
_FOR_MOMENTS = 10_000
# With crop -1, images of one size up to this side are examples as they are, and others are cut into squares of that
# side. Networks of up to three scales divide both.
_WHOLE, _SQUARE, _MULTIPLE = 64, 32, 4
# A single image gives at most this fraction of its rows, 1 / N, to the comparison of checkpoints.
_SPARED = 4


class ImageSet(NamedTuple):
    """Images of one number of channels, uint8 or float32.

    Attributes:
      train: to train on.
      held_out: never trained on.
      crop: side of the random squares that are the examples; None where the images themselves are.
    """

    train: Collection
    held_out: Collection
    crop: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example, (H, W, C)."""
        first = self.train[0].shape
        return first if self.crop is None else (self.crop, self.crop, first[-1])

    @property
    def levels(self) -> int | None:
        """256 for uint8; None for real numbers."""
        return 256 if self.train[0].dtype == np.uint8 else None


class Labelled(NamedTuple):
    """Images and the class of each.

    Attributes:
      images: [N, H, W, C] uint8.
      labels: [N] int32, from 0.
    """

    images: np.ndarray
    labels: np.ndarray


def collect(images: Sequence[np.ndarray]) -> Collection:
    """As one array, if all have one shape."""
    if len({image.shape for image in images}) == 1:
        return np.stack(images)
    return list(images)


def check_shapes(shapes: Sequence[tuple[str, tuple[int, ...]]], crop: int | None) -> None:
    """See that all images can be examples of one shape.

    Args:
      shapes: name and (H, W, C) of each.
      crop: side of the crops, None for none.

    Raises:
      ValueError: if channels differ, or sizes do and there are no crops, or a crop does not fit; it names an image.
    """
    name, first = shapes[0]
    for other, shape in shapes:
        if shape[-1] != first[-1]:
            raise ValueError(f"{name} has {first[-1]} channels and {other} has {shape[-1]}")
        if crop is None and shape != first:
            raise ValueError(
                f"{name} is {first[0]}x{first[1]} and {other} {shape[0]}x{shape[1]}; "
                "set config.data.crop to take crops of one size"
            )
        if crop is not None and min(shape[:2]) < crop:
            raise ValueError(f"{other} is {shape[0]}x{shape[1]}, smaller than config.data.crop={crop}")


def choose_crop(shapes: Sequence[tuple[int, ...]]) -> int | None:
    """Return the side of the crops that suits images, a multiple of 4 up to 32; None for no crops.

    Images that have one size of at most 64 x 64, divisible by 4, are not cropped.

    Args:
      shapes: (H, W, C) of each image. Half of the rows of a single image are left for evaluation.

    Raises:
      ValueError: if they are too small.
    """
    sides = np.array([shape[:2] for shape in shapes])
    if len(sides) > 1 and (sides == sides[0]).all() and sides.max() <= _WHOLE and not (sides % _MULTIPLE).any():
        return None
    smallest = sides.min() if len(sides) > 1 else min(sides[0, 0] // 2, sides[0, 1])
    side = min(_SQUARE, int(smallest)) // _MULTIPLE * _MULTIPLE
    if not side:
        raise ValueError(f"images of at least {_MULTIPLE} x {_MULTIPLE} pixels are needed, one alone twice as high")
    return side


def split(images: Sequence[np.ndarray], fraction: float, crop: int | None) -> ImageSet:
    """Keep a fraction of the images back; of a single one, the lowest rows, so that no crop lies in both parts.

    Raises:
      ValueError: if a single image is not to be cropped, or is too small to be parted.
    """
    if len(images) > 1:
        order = np.random.RandomState(0).permutation(len(images))
        kept = min(max(round(fraction * len(images)), 1), len(images) - 1)
        return ImageSet(collect([images[i] for i in order[kept:]]), collect([images[i] for i in order[:kept]]), crop)
    if crop is None:
        raise ValueError("there is one image only; set config.data.crop to take crops of it")
    height = images[0].shape[0]
    rows = max(round(fraction * height), crop)
    if height - rows < crop:
        raise ValueError(
            f"an image of height {height} has no room for crops of {crop} to train on and others to evaluate on"
        )
    return ImageSet(images[0][None, :-rows], images[0][None, -rows:], crop)


def split_lazily(images: Sequence[np.ndarray], fraction: float, crop: int | None) -> ImageSet:
    """Keep a fraction of the images back, as `split`, without looking at them."""
    train, held_out = arrays.split(np.arange(len(images)), fraction)
    return ImageSet(_Chosen(images, train), _Chosen(images, held_out), crop)


class _Chosen(Sequence[np.ndarray]):
    """Some of the images of a sequence, which may be decoded when they are looked at."""

    def __init__(self, images: Sequence[np.ndarray], index: np.ndarray) -> None:
        self._images, self._index = images, index

    def __len__(self) -> int:
        return len(self._index)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[np.ndarray]: ...

    def __getitem__(self, index: int | slice) -> np.ndarray | Sequence[np.ndarray]:
        if isinstance(index, slice):
            return _Chosen(self._images, self._index[index])
        return self._images[int(self._index[index])]


def apart(images: Collection, fraction: float, crop: int | None) -> tuple[Collection, Collection]:
    """Part the training images, always in the same way: those to train on, those to compare checkpoints on.

    By `arrays.apart`; of a single image that is cropped, the lowest rows, where it is high enough to spare them.
    """
    if len(images) == 1 and crop is not None and fraction > 0:
        height = images[0].shape[0]
        rows = max(round(fraction * height), crop)
        if height >= _SPARED * rows:
            return images[0][None, :-rows], images[0][None, -rows:]
    trained, validated = arrays.apart(len(images), fraction)
    if len(trained) == len(images):
        return images, images
    if isinstance(images, np.ndarray):
        return images[trained], images[validated]
    return _Chosen(images, trained), _Chosen(images, validated)


def crops(images: Collection, index: np.ndarray, place: np.ndarray, side: int | None) -> np.ndarray:
    """One example of each of the indexed images, [B, side, side, C]; the whole image if side is None.

    Args:
      images: see `Collection`.
      index: [B] which.
      place: [B, 2] in [0, 1), where in each.
      side: of the crops.
    """
    if side is None:
        return images[index] if isinstance(images, np.ndarray) else np.stack([images[i] for i in index])
    taken = []
    for i, (down, right) in zip(index, place, strict=True):
        image = images[i]
        if min(image.shape[:2]) < side:
            raise ValueError(f"image {i} is {image.shape[0]}x{image.shape[1]}, smaller than config.data.crop={side}")
        top, left = (int(u * (size - side + 1)) for u, size in zip((down, right), image.shape[:2], strict=True))
        taken.append(image[top : top + side, left : left + side])
    return np.stack(taken)


def moments(images: Collection) -> tuple[float, float]:
    """Compute mean and variance over all pixels and channels; of 10 000 random images, where they are in no array."""
    # Data sets are often sorted by class, so the first are like no others.
    some = np.sort(np.random.RandomState(0).permutation(len(images))[:_FOR_MOMENTS])
    parts = [images] if isinstance(images, np.ndarray) else (images[i] for i in some)
    count, mean, squares = 0, 0.0, 0.0
    for part in parts:
        part_mean = float(part.mean(dtype=np.float64))
        part_squares = float(part.var(dtype=np.float64)) * part.size
        # Chan's rule for joining two sets: no difference of large sums.
        total, apart = count + part.size, part_mean - mean
        squares += part_squares + apart**2 * count * part.size / total
        mean += apart * part.size / total
        count = total
    return mean, squares / count

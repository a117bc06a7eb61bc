"""Checks of the shape of examples; their messages follow the name of a network."""

from __future__ import annotations

import flax.linen as nn

__all__ = ["OfVectors", "check_divisible", "check_image"]


class OfVectors:
    """Base of networks that take vectors alone."""

    @nn.nowrap
    def check_shape(self, shape: tuple[int, ...], trained: tuple[int, ...] | None = None) -> None:
        """Refuse anything but vectors.

        Raises:
          ValueError: if an example of this shape is none.
        """
        if len(shape) != 1:
            raise ValueError("does not take images; use multiscale or unet")


def check_image(shape: tuple[int, ...]) -> None:
    """Refuse anything but images.

    Raises:
      ValueError: if an example of this shape is none.
    """
    if len(shape) != 3:
        raise ValueError("does not take vectors; use time_mlp, sigmoid_mlp or rbf")


def check_divisible(shape: tuple[int, ...], factor: int) -> None:
    """Refuse images that are not whole numbers of pixels on the coarsest scale.

    Raises:
      ValueError: if a side is no multiple of `factor`.
    """
    height, width = shape[:2]
    if height % factor or width % factor:
        raise ValueError(
            f"needs sides that are multiples of {factor}, the pixels of its coarsest scale, got {height}x{width}; use "
            "fewer scales or levels, or config.data.crop"
        )

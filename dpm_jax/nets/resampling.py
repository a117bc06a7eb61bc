"""Images to coarser and finer grids, [B, H, W, C]."""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp
from jax import Array, lax

__all__ = ["depth_to_space", "mean_pool", "space_to_depth", "upsample"]


# On TPUs the shapes that are natural here split the axes that images are laid out by, and every square costs a copy of
# the image; as a convolution of each channel by itself both are quick, and exact at this precision.


def mean_pool(x: Array, factor: int) -> Array:
    """Mean over squares of side `factor`: [B, H, W, C] -> [B, H / factor, W / factor, C]."""
    pooled: Array = lax.platform_dependent(
        x, tpu=partial(_mean_by_kernel, factor=factor), default=partial(_mean_by_shape, factor=factor)
    )
    return pooled


def upsample(x: Array, factor: int) -> Array:
    """Each pixel becomes a square of side `factor`: [B, H, W, C] -> [B, H factor, W factor, C]."""
    squares: Array = lax.platform_dependent(
        x, tpu=partial(_squares_by_kernel, factor=factor), default=partial(_squares_by_shape, factor=factor)
    )
    return squares


def _mean_by_shape(x: Array, factor: int) -> Array:
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // factor, factor, width // factor, factor, channels).mean((2, 4))


def _mean_by_kernel(x: Array, factor: int) -> Array:
    return _each_channel(x, jnp.full((factor, factor), 1 / factor**2, x.dtype), window_strides=(factor, factor))


def _squares_by_shape(x: Array, factor: int) -> Array:
    batch, height, width, channels = x.shape
    shape = (batch, height, factor, width, factor, channels)
    # In float32 at least: its gradient is a sum over squares.
    precise = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    squares = jnp.broadcast_to(precise[:, :, None, :, None], shape)
    return squares.reshape(batch, height * factor, width * factor, channels).astype(x.dtype)


def _squares_by_kernel(x: Array, factor: int) -> Array:
    kernel, padding = jnp.ones((factor, factor), x.dtype), [(factor - 1, factor - 1)] * 2
    return _each_channel(x, kernel, (1, 1), padding, lhs_dilation=(factor, factor))


def _each_channel(
    x: Array,
    kernel: Array,
    window_strides: tuple[int, int],
    padding: str | list[tuple[int, int]] = "VALID",
    lhs_dilation: tuple[int, int] | None = None,
) -> Array:
    """Convolve every channel with one kernel, float32 numbers as such."""
    channels = x.shape[-1]
    return lax.conv_general_dilated(
        x,
        jnp.broadcast_to(kernel[:, :, None, None], (*kernel.shape, 1, channels)),
        window_strides,
        padding,
        lhs_dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=channels,
        precision=lax.Precision.HIGHEST,
    )


def space_to_depth(x: Array, factor: int) -> Array:
    """Squares of side `factor` become channels: [B, H, W, C] -> [B, H / factor, W / factor, factor^2 C]."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // factor, factor, width // factor, factor, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // factor, width // factor, factor**2 * channels)


def depth_to_space(x: Array, factor: int) -> Array:
    """Undo `space_to_depth`."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, factor, factor, channels // factor**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height * factor, width * factor, channels // factor**2)

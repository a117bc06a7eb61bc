"""Images to coarser and finer grids, [B, H, W, C]."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

__all__ = ["depth_to_space", "mean_pool", "space_to_depth", "upsample"]


def mean_pool(x: Array, factor: int) -> Array:
    """Mean over squares of side `factor`: [B, H, W, C] -> [B, H / factor, W / factor, C]."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // factor, factor, width // factor, factor, channels).mean((2, 4))


def upsample(x: Array, factor: int) -> Array:
    """Each pixel becomes a square of side `factor`: [B, H, W, C] -> [B, H factor, W factor, C]."""
    batch, height, width, channels = x.shape
    shape = (batch, height, factor, width, factor, channels)
    return jnp.broadcast_to(x[:, :, None, :, None], shape).reshape(batch, height * factor, width * factor, channels)


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

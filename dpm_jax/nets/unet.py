"""A U-Net: the modern network for images."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from dpm_jax.distributions import Grid
from dpm_jax.nets.convolution import Conv
from dpm_jax.nets.dense import Dense
from dpm_jax.nets.levels import check_periods, with_level_features
from dpm_jax.nets.normalization import GroupNorm
from dpm_jax.nets.resampling import depth_to_space, mean_pool, space_to_depth, upsample
from dpm_jax.nets.shapes import check_divisible, check_image
from dpm_jax.numerics import refuse
from dpm_jax.schedules import bump_basis

__all__ = ["UNet"]

_ZEROS = nn.initializers.zeros


class UNet(nn.Module):
    """Residual blocks over halving resolutions, each scaled and shifted by time (FiLM).

    Called with x_t [B, H, W, C] and t int32 [B]; returns [B, H, W, num_outputs] float32,
    zero at initialisation. H and W must be divisible by patch_size * 2^(len(features) - 1).
    With attention in none of the levels it can be called at other sizes than it was trained at.

    Attributes:
      num_outputs: outputs a pixel.
      clock: t -> position in [0, 1], smooth in the noise level.
      features: channels of each level, finest first; each level has half the resolution of the one before.
      num_blocks: residual blocks a level, on the way down and again on the way up.
      patch_size: pixels of a patch of this side are the channels of the finest level; 2 makes it four times cheaper.
      attention: self-attention at the coarsest level.
      num_heads: of the attention.
      num_groups: of the normalisation; one group where it does not divide the channels.
      num_bumps: size of the time basis.
      dropout: rate, in each block, where the call has a key for it (`rngs={"dropout": key}`); none elsewhere.
      periods: in grey levels, of Fourier features of 8-bit pixels, see `levels`; none by default.
      grid: of the data's levels, None where they have none.
      log_nsr: t -> log of the noise-to-signal ratio; needed for periods.
      remat: compute each block again in the backward pass, in place of keeping what is within it.
      dtype: that convolutions are computed in; normalisation, parameters and outputs are float32.
    """

    num_outputs: int
    clock: Callable[[Array], Array]
    features: tuple[int, ...] = (32, 64)
    num_blocks: int = 1
    patch_size: int = 1
    attention: bool = True
    num_heads: int = 4
    num_groups: int = 8
    num_bumps: int = 16
    dropout: float = 0.0
    periods: tuple[float, ...] = ()
    grid: Grid | None = None
    log_nsr: Callable[[Array], Array] | None = None
    remat: bool = False
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        refuse.widths("features", self.features)
        check_periods(self.periods, self.grid)
        refuse.within("[0, 1)", dropout=self.dropout)
        for name in ("num_blocks", "patch_size", "num_heads", "num_groups", "num_bumps"):
            refuse.within("[1, inf)", **{name: getattr(self, name)})
        if self.attention and self.features[-1] % self.num_heads:
            width = self.features[-1]
            raise ValueError(f"num_heads: must divide the {width} features of the last level, got {self.num_heads}")
        super().__post_init__()

    @nn.nowrap
    def check_shape(self, shape: tuple[int, ...], trained: tuple[int, ...] | None = None) -> None:
        """See that examples of this shape can be given to it, or to the one that was trained on another shape."""
        check_image(shape)
        if trained is not None and self.attention:
            (h, w), (height, width) = trained[:2], shape[:2]
            raise ValueError(
                f"has attention that was trained at one size, {h}x{w}, got {height}x{width}; train with "
                "--config.network.unet.attention=False"
            )
        check_divisible(shape, self.patch_size * 2 ** (len(self.features) - 1))

    @nn.compact
    def __call__(self, x: Array, t: Array) -> Array:
        time = nn.silu(nn.Dense(4 * self.features[0])(bump_basis(self.clock(t), self.num_bumps)))

        block_class: Any = nn.remat(_ResBlock) if self.remat else _ResBlock
        numbers = itertools.count()

        def block(h: Array, width: int) -> Array:
            # Named, so that parameters are the same with remat and without.
            name = f"_ResBlock_{next(numbers)}"
            made: Array = block_class(width, self.num_groups, self.dropout, self.dtype, name=name)(h, time)
            return made

        if self.periods:
            x = with_level_features(x, t, self.periods, self.grid, self.log_nsr)  # type: ignore[arg-type]
        h = Conv(self.features[0], dtype=self.dtype)(space_to_depth(x, self.patch_size).astype(self.dtype))
        skips = [h]
        for level, width in enumerate(self.features):
            if level:
                h = mean_pool(h, 2)
                skips.append(h)
            for _ in range(self.num_blocks):
                h = block(h, width)
                skips.append(h)
        h = block(h, self.features[-1])
        if self.attention:
            h = _Attention(self.num_heads, self.num_groups, self.dtype)(h)
            h = block(h, self.features[-1])
        for level, width in reversed(list(enumerate(self.features))):
            for _ in range(self.num_blocks + 1):
                h = block(jnp.concatenate([h, skips.pop()], axis=-1), width)
            if level:
                h = upsample(h, 2)
        h = nn.silu(_norm(h, self.num_groups))
        # The last layer in float32: its outputs are the distribution's parameters.
        h = Conv(self.num_outputs * self.patch_size**2, kernel_init=_ZEROS)(h)
        return depth_to_space(h, self.patch_size)


def _norm(h: Array, num_groups: int) -> Array:
    """Group normalisation, float32 whatever comes in."""
    groups = num_groups if h.shape[-1] % num_groups == 0 else 1
    normalised: Array = GroupNorm(groups)(h)
    return normalised


class _ResBlock(nn.Module):
    """h + conv(film(conv(h))), normalised and SiLU before each convolution; the second begins at zero."""

    features: int
    num_groups: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, time: Array) -> Array:
        h = nn.silu(_norm(x, self.num_groups)).astype(self.dtype)
        h = Conv(self.features, dtype=self.dtype)(h)
        film = nn.Dense(2 * self.features, kernel_init=_ZEROS)(time)[:, None, None]
        scale, shift = jnp.split(film, 2, axis=-1)
        h = nn.silu(_norm(h, self.num_groups) * (1 + scale) + shift).astype(self.dtype)
        h = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))(h)
        h = Conv(self.features, dtype=self.dtype, kernel_init=_ZEROS)(h)
        if x.shape[-1] != self.features:
            x = Conv(self.features, kernel_size=1, dtype=self.dtype)(x)
        added: Array = x + h
        return added


class _Attention(nn.Module):
    """Residual self-attention over all positions."""

    num_heads: int
    num_groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, height, width, channels = x.shape
        h = _norm(x, self.num_groups).astype(self.dtype).reshape(batch, height * width, channels)
        h = _MultiHead(self.num_heads, self.dtype, name="MultiHeadDotProductAttention_0")(h)
        attended: Array = x + h.reshape(x.shape)
        return attended


class _MultiHead(nn.Module):
    """Flax's `MultiHeadDotProductAttention` of one sequence, its parameters too, with biases and softmax in float32."""

    num_heads: int
    dtype: Any

    @nn.compact
    def __call__(self, h: Array) -> Array:
        channels = h.shape[-1]
        heads = (self.num_heads, channels // self.num_heads)
        query, key, value = (Dense(heads, dtype=self.dtype, name=name)(h) for name in ("query", "key", "value"))
        h = nn.dot_product_attention(query, key, value, dtype=self.dtype, force_fp32_for_softmax=True)
        out: Array = Dense(channels, axis=(-2, -1), dtype=self.dtype, kernel_init=_ZEROS, name="out")(h)
        return out

"""The paper's network for images (appendix D.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from dpm_jax.nets.convolution import Conv
from dpm_jax.nets.dense import Dense
from dpm_jax.nets.resampling import mean_pool, upsample
from dpm_jax.nets.shapes import check_divisible, check_image
from dpm_jax.nets.time import BumpReadout
from dpm_jax.numerics import refuse
from dpm_jax.schedules import bump_basis

__all__ = ["MultiscaleConv", "MultiscaleNet"]

Activation = Literal["softplus_tanh", "leaky_relu"]


class MultiscaleConv(nn.Module):
    """One linear layer: mean-pool to each scale 2^0..2^(S-1), convolve there, upsample, sum (appendix D.2.1).

    Called with [B, H, W, C], H and W divisible by 2^(S-1); returns [B, H, W, features].

    Attributes:
      features: output channels.
      num_scales: S.
      kernel_size: side of the kernel, the same in pixels of every scale.
      dtype: that the convolutions are computed in.
    """

    features: int
    num_scales: int = 1
    kernel_size: int = 3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        # Each kernel as if it were alone, divided among the scales, so that the sum keeps its variance.
        init = nn.initializers.variance_scaling(1 / self.num_scales, "fan_in", "truncated_normal")
        total = Conv(self.features, self.kernel_size, kernel_init=init, dtype=self.dtype)(x)
        for scale in range(1, self.num_scales):
            convolve = Conv(self.features, self.kernel_size, use_bias=False, kernel_init=init, dtype=self.dtype)
            total = total + upsample(convolve(mean_pool(x, 2**scale)), 2**scale)
        return total


class MultiscaleNet(nn.Module):
    """Multiscale convolutions, a dense path beside them, 1x1 convolutions on top, readout by bumps of time.

    Called with x_t [B, H, W, C] and t int32 [B]; returns [B, H, W, num_outputs] float32, zero at
    initialisation. H and W must be divisible by 2^(num_scales - 1). Without a dense path it is
    convolutional, and can be called at other sizes than it was trained at.

    Attributes:
      num_outputs: outputs a pixel.
      clock: t -> position in [0, 1].
      features: channels of each multiscale layer.
      num_layers: how many of them; 0 for the dense path alone, as the paper has for MNIST.
      num_scales: S of each.
      kernel_size: of each.
      dense_features: width of the dense layers, which act on the whole image.
      dense_layers: how many; 0 for none.
      dense_outputs: what the dense path hands on, a pixel.
      pointwise_features: channels of each 1x1 layer.
      pointwise_layers: how many.
      activation: "softplus_tanh": softplus, and tanh in the dense path (paper); "leaky_relu": of slope 0.05
        everywhere (the authors' released code).
      film: let time scale and shift each layer before its nonlinearity; else, as in the paper, it acts in the
        readout alone.
      num_bumps: J of the readout.
      dtype: that the layers are computed in; parameters, readout and outputs are float32.
    """

    num_outputs: int
    clock: Callable[[Array], Array]
    features: int = 20
    num_layers: int = 4
    num_scales: int = 1
    kernel_size: int = 3
    dense_features: int = 500
    dense_layers: int = 0
    dense_outputs: int = 2
    pointwise_features: int = 20
    pointwise_layers: int = 2
    activation: Activation = "leaky_relu"
    film: bool = False
    num_bumps: int = 10
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        refuse.one_of("activation", self.activation, get_args(Activation))
        refuse.within("[1, 12]", num_scales=self.num_scales)
        for name in ("features", "kernel_size", "dense_features", "dense_outputs", "pointwise_features", "num_bumps"):
            refuse.within("[1, inf)", **{name: getattr(self, name)})
        for name in ("num_layers", "dense_layers", "pointwise_layers"):
            refuse.within("[0, inf)", **{name: getattr(self, name)})
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size: must be odd, got {self.kernel_size}")
        if self.num_layers == self.dense_layers == 0:
            raise ValueError("num_layers and dense_layers are both 0; one path is needed")
        super().__post_init__()

    @nn.nowrap
    def check_shape(self, shape: tuple[int, ...], trained: tuple[int, ...] | None = None) -> None:
        """See that examples of this shape can be given to it, or to the one that was trained on another shape."""
        check_image(shape)
        if trained is not None and self.dense_layers:
            (h, w), (height, width) = trained[:2], shape[:2]
            raise ValueError(f"has a dense path, which takes images of {h}x{w} only, got {height}x{width}")
        check_divisible(shape, 2 ** (self.num_scales - 1))

    @nn.compact
    def __call__(self, x: Array, t: Array) -> Array:
        paper = self.activation == "softplus_tanh"
        convolutional: Callable[[Array], Array] = nn.softplus if paper else _leaky
        dense: Callable[[Array], Array] = nn.tanh if paper else _leaky
        bumps = bump_basis(self.clock(t), self.num_bumps)

        def film(h: Array) -> Array:
            if not self.film:
                return h
            change = nn.Dense(2 * h.shape[-1], use_bias=False, kernel_init=nn.initializers.zeros)(bumps)
            scale, shift = jnp.split(change.reshape(len(h), *(1,) * (h.ndim - 2), -1), 2, axis=-1)
            # In float32: gradients of scale and shift are sums over pixels.
            return (h * (1 + scale) + shift).astype(h.dtype)

        batch, height, width, _ = x.shape
        x = x.astype(self.dtype)
        paths = []
        if self.num_layers:
            h = x
            for _ in range(self.num_layers):
                layer = MultiscaleConv(self.features, self.num_scales, self.kernel_size, self.dtype)
                h = convolutional(film(layer(h)))
            paths.append(h)
        if self.dense_layers:
            h = x.reshape(batch, -1)
            for _ in range(self.dense_layers):
                h = dense(film(Dense(self.dense_features, dtype=self.dtype)(h)))
            h = dense(Dense(height * width * self.dense_outputs, dtype=self.dtype)(h))
            paths.append(h.reshape(batch, height, width, self.dense_outputs))
        h = jnp.concatenate(paths, axis=-1)
        for _ in range(self.pointwise_layers):
            h = convolutional(film(Conv(self.pointwise_features, 1, dtype=self.dtype)(h)))
        return BumpReadout(self.num_outputs)(h.astype(jnp.float32), bumps)


def _leaky(x: Array) -> Array:
    return nn.leaky_relu(x, 0.05)

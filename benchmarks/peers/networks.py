"""The networks of the libraries in JAX."""

from __future__ import annotations

from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from benchmarks.peers.work import MLP_LAYERS, MLP_WIDTH, NUM_TIMESTEPS
from dpm_jax.nets import unet as unet_lib
from dpm_jax.training import flops


class MLP(nn.Module):
    """Perceptron (x [B, 2], t / T) -> [B, 2]."""

    @nn.compact
    def __call__(self, x: Array, t: Array) -> Array:
        h = jnp.concatenate([x, t.reshape(-1, 1)], -1)
        for _ in range(MLP_LAYERS):
            h = nn.silu(nn.Dense(MLP_WIDTH)(h))
        return nn.Dense(2)(h)


UNET_FEATURES = (40, 64, 80)


def unet(clock: Any) -> nn.Module:
    """Return this project's network, of about 1.4 M parameters."""
    return unet_lib.UNet(num_outputs=1, clock=clock, features=UNET_FEATURES, num_blocks=1)


class StockUNet(nn.Module):
    """The same U-Net with Flax's own convolutions; t in (0, 1]."""

    @nn.compact
    def __call__(self, x: Array, t: Array) -> Array:
        with mock.patch.object(unet_lib, "Conv", _stock_conv):
            y: Array = unet(lambda t: t.reshape(-1))(x, t)
        return y


def _stock_conv(features: int, kernel_size: int = 3, **settings: Any) -> nn.Conv:
    return nn.Conv(features, (kernel_size, kernel_size), **settings)


def size(module: nn.Module, params: Any, shape: tuple[int, ...]) -> str:
    """Parameters, and operations of a forward pass an example, both in millions."""
    num = sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6
    operations = flops.count(module.apply, params, jnp.zeros((1, *shape)), jnp.ones(1)) / 1e6
    return f"{num:.2f} M, {operations:.0f} MFLOP"


def fraction(t: Array) -> Array:
    """1..T -> (0, 1]."""
    return t / NUM_TIMESTEPS


class Fractional(nn.Module):
    """A network of fractions, called with t in 1..T."""

    network: nn.Module

    @nn.compact
    def __call__(self, x: Array, t: Array) -> Array:
        y: Array = self.network(x, fraction(t))
        return y

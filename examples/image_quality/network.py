"""A small convolutional classifier of images, whose features samples are compared by."""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
from jax import Array

from dpm_jax.nets.convolution import Conv
from dpm_jax.nets.resampling import mean_pool, space_to_depth

__all__ = ["ConvClassifier", "Outputs"]


class Outputs(NamedTuple):
    """Outputs of the classifier.

    Attributes:
      features: [B, num_features], what the logits are linear in.
      logits: [B, num_classes], log-probabilities of the classes up to a constant.
    """

    features: Array
    logits: Array


class ConvClassifier(nn.Module):
    """Two convolutions at a half and a quarter of the resolution, then two dense layers.

    Called with images [B, H, W, C], float32 in [0, 1], H and W divisible by 4; returns `Outputs`.

    Attributes:
      num_classes: how many.
      channels: of the two convolutions.
      num_features: of the layer before the last.
    """

    num_classes: int
    channels: tuple[int, int] = (32, 64)
    num_features: int = 64

    @nn.compact
    def __call__(self, images: Array) -> Outputs:
        first, second = self.channels
        h = nn.silu(Conv(first)(space_to_depth(images - 0.5, 2)))
        h = nn.silu(Conv(second)(mean_pool(h, 2)))
        features = nn.silu(nn.Dense(self.num_features)(h.reshape(h.shape[0], -1)))
        return Outputs(features, nn.Dense(self.num_classes)(features))

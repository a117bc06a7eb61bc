"""The law of images that have become one level a channel: where a cold chain begins (Bansal et al. 2022, section 5.2).

    x = m + A u + r_c (n - mean of n over the pixels)

u one standard normal a channel, n one a pixel and channel: the mean of a channel over the image is N(m, A A^T), the
channels' together, and the pixels lie about it with standard deviation r_c. The paper fits a normal to the channel
means of blurred images, and adds a little noise so that equal pixels need not stay equal. Here both are one law with
a density, whose parameters can be fitted by maximum likelihood along with the network.

In an orthonormal basis of the N pixels that has the constant for its first vector, the coordinates of a channel are
sqrt(N) times its mean and N - 1 independent N(0, r_c^2): so the covariance of a channel has the eigenvalue
N (A A^T)_cc once and r_c^2 N - 1 times, and density and samples need no matrix larger than C.

Standard deviations have a floor. Blurred wide, images are constant to rounding, and the likelihood would grow without
bound as r fell: its gradients would swamp the network's, and nothing would be left to tell one
pixel from the next, which is what the reverse chain makes its detail of.

Shapes: x is [B, ..., C]; sums are over everything but the batch, in nats. The verbs are those of `normal`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from dpm_jax import normal
from dpm_jax.normal import FullNormal, noise
from dpm_jax.shapes import sum_event

__all__ = ["FLOOR", "Level", "log_prob", "noise", "place", "standard"]

# Least standard deviation, in standardised units: the noise that the paper adds (section 5.2).
FLOOR = 2e-3


class Level(NamedTuple):
    """The law of the module's docstring, by parameters that may be any real numbers.

    Attributes:
      mean: [C] m.
      log_scale: [C], the diagonal of A being sqrt(FLOOR^2 + exp(2 log_scale)).
      log_noise: [C], r being sqrt(FLOOR^2 + exp(2 log_noise)).
      mixing: [C, C], A below the diagonal; the rest is not looked at. 0: channels are independent.
    """

    mean: Array
    log_scale: Array
    log_noise: Array
    mixing: Array | float = 0.0


def standard(num_channels: int) -> Level:
    """Where to begin fitting: every scale is 1, wider than standardised data need, so that gradients are small."""
    # An array each: the same one thrice could not be donated to a train step.
    mean, log_scale, log_noise = (jnp.zeros(num_channels, jnp.float32) for _ in range(3))
    return Level(mean, log_scale, log_noise, jnp.zeros((num_channels, num_channels), jnp.float32))


def _deviation(log_scale: Array) -> Array:
    return jnp.sqrt(FLOOR**2 + jnp.exp(2 * log_scale))


def _levels(p: Level) -> FullNormal:
    """The law of the channel means, of a batch of one."""
    size = p.mean.shape[0]
    below = jnp.tril(jnp.broadcast_to(jnp.asarray(p.mixing, jnp.float32), (size, size)), -1)
    return FullNormal(p.mean[None], (below + jnp.diag(_deviation(p.log_scale)))[None])


def _split(x: Array) -> tuple[Array, Array]:
    """Channel means, [B, 1, ..., C], and what is left without them, [B, ..., C]."""
    mean = x.mean(axis=tuple(range(1, x.ndim - 1)), keepdims=True)
    return mean, x - mean


def place(p: Level, noise: Array) -> Array:
    """The sample of p that standard normal noise [B, ..., C] stands for, of its shape."""
    mean, rest = _split(noise)
    num_pixels = math.prod(noise.shape[1:-1])
    # The mean of the noise is independent of the rest, and has variance 1 / N.
    level = normal.place(_levels(p), math.sqrt(num_pixels) * mean.reshape(-1, noise.shape[-1]))
    return level.reshape(mean.shape) + _deviation(p.log_noise).reshape((1,) * (rest.ndim - 1) + (-1,)) * rest


def log_prob(p: Level, x: Array) -> Array:
    """log p(x) of [B, ..., C], [B] nats."""
    mean, rest = _split(x)
    num_channels, num_pixels = x.shape[-1], math.prod(x.shape[1:-1])
    deviation = _deviation(p.log_noise).reshape((1,) * (rest.ndim - 1) + (-1,))
    about_level = -0.5 * sum_event((rest / deviation) ** 2) - (num_pixels - 1) * jnp.sum(
        jnp.log(deviation) + 0.5 * math.log(2 * math.pi)
    )
    # The coordinate is sqrt(N) times the mean.
    return normal.log_prob(_levels(p), mean.reshape(-1, num_channels)) + (
        about_level - 0.5 * num_channels * math.log(num_pixels)
    )

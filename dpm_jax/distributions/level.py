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

Sums are over the event [..., C], in nats.
"""

from __future__ import annotations

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from dpm_jax.distributions import FullNormal
from dpm_jax.numerics.small_matrices import diagonal

__all__ = ["FLOOR", "Level", "standard"]

# Least standard deviation, in standardised units: the noise that the paper adds (section 5.2).
FLOOR = 2e-3


def standard(num_channels: int) -> dict[str, Array]:
    """Return parameters of `Level` to begin fitting at.

    Every scale is 1, wider than standardised data need, so that gradients are small.
    """
    # An array each: the same one thrice could not be donated to a train step.
    location, log_scale, log_noise = (jnp.zeros(num_channels, jnp.float32) for _ in range(3))
    mixing = jnp.zeros((num_channels, num_channels), jnp.float32)
    return {"location": location, "log_scale": log_scale, "log_noise": log_noise, "mixing": mixing}


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("location", "log_scale", "log_noise", "mixing"),
    meta_fields=("event_shape",),
)
@dataclasses.dataclass(frozen=True)
class Level:
    """The law of the module's docstring, by parameters that may be any real numbers.

    Attributes:
      event_shape: of one x, [..., C].
      location: [*batch, C] m.
      log_scale: [*batch, C], the diagonal of A being sqrt(FLOOR^2 + exp(2 log_scale)).
      log_noise: [*batch, C], r being sqrt(FLOOR^2 + exp(2 log_noise)).
      mixing: [*batch, C, C], A below the diagonal; the rest is not looked at. 0: channels are independent.
    """

    event_shape: tuple[int, ...]
    location: Array
    log_scale: Array
    log_noise: Array
    mixing: Array

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the batch: one independent distribution for each entry."""
        return self.location.shape[:-1]

    @property
    def _num_pixels(self) -> int:
        return math.prod(self.event_shape[:-1])

    @property
    def _levels(self) -> FullNormal:
        """The law of the channel means."""
        return FullNormal(self.location, jnp.tril(self.mixing, -1) + diagonal(_deviation(self.log_scale)))

    def _spread(self, channels: Array) -> Array:
        """[*batch, C] -> broadcasting to [*batch, *event]."""
        ones = (1,) * (len(self.event_shape) - 1)
        return channels.reshape(*channels.shape[:-1], *ones, channels.shape[-1])

    def _split(self, x: Array) -> tuple[Array, Array]:
        """Channel means, [*batch, C], and what is left without them, of x's shape."""
        mean = x.mean(axis=tuple(range(-len(self.event_shape), -1)))
        return mean, x - self._spread(mean)

    def sample(self, key: Array) -> Array:
        """Sample x, [*batch, *event]."""
        mean, rest = self._split(jax.random.normal(key, (*self.batch_shape, *self.event_shape), jnp.float32))
        # The mean of the noise is independent of the rest, and has variance 1 / N.
        level = self._levels.place(math.sqrt(self._num_pixels) * mean)
        return self._spread(level) + self._spread(_deviation(self.log_noise)) * rest

    def log_prob(self, x: Array) -> Array:
        """Return log p(x) in nats, [*batch]; x may have more batch axes in front."""
        if missing := x.ndim - len(self.event_shape) - len(self.batch_shape):
            law = jax.tree.map(lambda values: values.reshape(*(1,) * missing, *values.shape), self)
            of_batch: Array = law.log_prob(x)
            return of_batch
        mean, rest = self._split(x)
        num_channels, num_pixels, deviation = x.shape[-1], self._num_pixels, _deviation(self.log_noise)
        squares = ((rest / self._spread(deviation)) ** 2).reshape(*mean.shape[:-1], -1).sum(axis=-1)
        log_scale = jnp.sum(jnp.log(deviation) + 0.5 * math.log(2 * math.pi), axis=-1)
        about_level = -0.5 * squares - (num_pixels - 1) * log_scale
        # The coordinate is sqrt(N) times the mean.
        log_p: Array = self._levels.log_prob(mean) + (about_level - 0.5 * num_channels * math.log(num_pixels))
        return log_p


def _deviation(log_scale: Array) -> Array:
    return jnp.sqrt(FLOOR**2 + jnp.exp(2 * log_scale))

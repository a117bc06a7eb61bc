"""Independent normal laws, and evidence about each coordinate by itself.

Evidence is a `Normal` too: r(x) = N(mean; x, variance), the likelihood of having observed `mean` (section 2.5 and
appendix C). Variance 0 says that x is known, infinity that it was not observed, and then r = 1 and `mean` is not
looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import log_ndtr

from dpm_jax.distributions.base import Law, event_ndim_of, parameter
from dpm_jax.numerics.shapes import as_float32
from dpm_jax.numerics.small_differences import x_minus_log1p

__all__ = ["LOG_2PI", "Normal", "excess"]

LOG_2PI = math.log(2 * math.pi)


class Normal(Law):
    """Independent normals.

    The mean is kept in two terms, origin + offset, that float32 could not hold as one: the laws of fine reverse steps
    differ by less than the rounding of their means. They share the origin, so that their difference is that of
    the offsets.

    Args:
      mean: [*batch, *event].
      variance: not negative, broadcasting to the mean's shape, last axes to last axes.
      offset: a second term of the mean, broadcasting likewise.
      event_ndim: how many of the last axes are one event, a sum in `log_prob`; all but the first if None.

    Raises:
      ValueError: if a parameter does not broadcast to the mean's shape, or holds no real numbers.
    """

    _parameters = ("origin", "offset", "variance")
    origin: Array
    offset: Array
    variance: Array

    def __init__(self, mean: Any, variance: Any, *, offset: Any = 0.0, event_ndim: int | None = None) -> None:
        origin = as_float32(mean, "mean")
        set_value = object.__setattr__
        set_value(self, "origin", origin)
        set_value(self, "offset", parameter("offset", offset, origin.shape))
        set_value(self, "variance", parameter("variance", variance, origin.shape))
        set_value(self, "event_ndim", event_ndim_of(origin.ndim, event_ndim))

    @classmethod
    def point(cls, x: Array, *, event_ndim: int | None = None) -> Normal:
        """Return the law under which x [B, ...] is certain; log Z of its product with r is log r(x)."""
        return cls(x, 0.0, event_ndim=event_ndim)

    @classmethod
    def known(cls, x: Array, observed: Array, *, event_ndim: int | None = None) -> Normal:
        """Return the evidence that coordinates of x are known.

        Args:
          x: [B, ...].
          observed: bool, broadcasting to it.
          event_ndim: as of the class.
        """
        return cls(x, jnp.where(observed, 0.0, jnp.inf), event_ndim=event_ndim)

    @property
    def mean(self) -> Array:
        """E[x], [*batch, *event]."""
        return self.origin + self.offset

    def mean_less(self, origin: Array) -> Array:
        """Return E[x] - origin, which loses nothing where the mean begins there."""
        return (self.origin - origin) + self.offset

    def place(self, noise: Array) -> Array:
        """Return mean + scale * noise, the sample that standard normal noise stands for."""
        # Where x is certain, the gradient of the root would be infinite.
        uncertain = self.variance > 0
        scale = jnp.where(uncertain, jnp.sqrt(jnp.where(uncertain, self.variance, 1.0)), 0.0)
        return self.mean + scale * noise

    def sample(self, key: Array) -> Array:
        """Sample x; differentiable in the law, the noise being a function of key alone."""
        return self.place(jax.random.normal(key, self.origin.shape, jnp.float32))

    def log_prob(self, x: Array) -> Array:
        """Return log p(x) in nats, [*batch], to a relative error of 1e-6 of its largest term."""
        residual = (as_float32(x) - self.origin) - self.offset
        return -0.5 * self._sum(_square(residual, self.variance) + jnp.log(self.variance) + LOG_2PI)

    def bin_log_prob(self, x: Array, *, width: float, lowest: float, highest: float) -> Array:
        """Return the log of the mass of the bin about x, in nats: a discretised decoder (DDPM, equation 13).

        With p(x_0 | x_1) for this law K bounds the log-probability of quantised data themselves, with no noise added.

        Args:
          x: [*batch, *event], middles of bins.
          width: of a bin.
          lowest: middle of the first bin, which reaches to -infinity.
          highest: middle of the last bin, which reaches to infinity: so all masses sum to one.
        """
        scale = jnp.sqrt(self.variance)
        low = jnp.where(x > lowest + width / 2, (x - width / 2 - self.mean) / scale, -jnp.inf)
        high = jnp.where(x < highest - width / 2, (x + width / 2 - self.mean) / scale, jnp.inf)
        # In the lower tail, where the logarithm of the distribution function keeps its digits.
        flip = low + high > 0
        low, high = jnp.where(flip, -high, low), jnp.where(flip, -low, high)
        log_high, log_low = log_ndtr(high), log_ndtr(low)
        return self._sum(log_high + jnp.log(-jnp.expm1(log_low - log_high)))

    def entropy(self) -> Array:
        """Return the differential entropy in nats, [*batch]."""
        return 0.5 * self._sum(jnp.log(self.variance) + LOG_2PI + 1)

    def kl(self, other: Any) -> Array:
        """Return KL(self || other) in nats, [*batch]; of a `Normal` or a `FullNormal`.

        Each coordinate adds 1/2 [(difference of means)^2 / var_p + r - 1 - log r], r = var_q / var_p. The relative
        error of the second part is 1e-6 for r between 1e-12 and 1e12, however near 1, given the variances as float32
        has them; that of the first is twice that of the difference of means.
        """
        if not isinstance(other, Normal):
            # A law that knows normals knows how far they are from it.
            divergence: Array = other.kl_from_normal(self)
            return divergence
        difference = self.mean_less(other.origin) - other.offset
        return 0.5 * self._sum(_square(difference, other.variance) + excess(self.variance, other.variance))

    def product(self, evidence: Normal) -> tuple[Normal, Array]:
        """Return p(x) r(x) / Z and log Z in nats, [*batch], for evidence r about each coordinate by itself.

        Args:
          evidence: r, broadcasting to the law.
        """
        law, log_z = self.observe(evidence)
        return law, self._sum(log_z)

    def observe(self, evidence: Normal) -> tuple[Normal, Array]:
        """Return `product` with log Z of each coordinate, of the law's shape."""
        known, seen = evidence.variance == 0, jnp.isfinite(evidence.variance)
        # Where nothing was seen, and where r is a point, the formulas are not used; they must stay finite.
        variance = jnp.where(seen & ~known, evidence.variance, 1.0)
        total = self.variance + jnp.where(known, 0.0, variance)
        # A certain x that was observed elsewhere is as good as impossible, and yet finite.
        spread = jnp.maximum(total, 1e-12)
        mean, value = self.mean, evidence.mean
        difference = jnp.where(seen, value, mean) - mean
        gain = jnp.where(seen, jnp.where(known, 1.0, self.variance / spread), 0.0)
        rest = jnp.where(seen, jnp.where(known, 0.0, variance / spread), 1.0)
        log_z = -0.5 * (difference**2 / spread + jnp.log(spread) + LOG_2PI)
        mean = jnp.where(known, value, mean + gain * difference)
        return Normal(mean, self.variance * rest, event_ndim=self.event_ndim), jnp.where(seen, log_z, 0.0)

    def tilt(self, log_r: Callable[[Array], Array] | Array) -> Normal:
        """Return p(x) r(x) / Z with log r linear: the mean moves by variance times its slope (Table App.1).

        Args:
          log_r: x -> [*batch], differentiable, an example's value depending on that example alone: the slope is its
            gradient at the mean. Or the slope itself, of the law's shape.
        """
        return Normal(self.mean + self.variance * slope_at(self.mean, log_r), self.variance, event_ndim=self.event_ndim)


def slope_at(mean: Array, log_r: Callable[[Array], Array] | Array) -> Array:
    """Return the gradient of log r at the mean, or what is given in place of it."""
    if not callable(log_r):
        return log_r
    gradient: Array = jax.grad(lambda x: log_r(x).sum())(mean)
    return gradient


def _square(residual: Array, variance: Array) -> Array:
    """residual^2 / variance, without the square, which float32 may not hold."""
    return residual * (residual / variance)


def excess(q: Array, p: Array) -> Array:
    """Return r - 1 - log r of the variances' ratio r = q / p, zero where they are equal."""
    ratio, x = q / p, (q - p) / p
    near = (x >= -0.5) & (x <= 1)
    # The branch that is not selected must stay finite, or gradients would be NaN.
    return jnp.where(near, x_minus_log1p(jnp.where(near, x, 0.0)), ratio - 1 - jnp.log(ratio))

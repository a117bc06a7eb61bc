"""Normal laws with full covariance, for low-dimensional data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from dpm_jax.distributions.base import Law, parameter
from dpm_jax.distributions.normal import LOG_2PI, Normal, excess, slope_at
from dpm_jax.numerics.shapes import as_float32
from dpm_jax.numerics.small_matrices import cholesky, diagonal, gram, solve_lower

__all__ = ["FullNormal"]


class FullNormal(Law):
    """A normal with full covariance scale_tril scale_tril^T. Its algebra is unrolled, for d up to about 6.

    The mean is kept in two terms, as that of `Normal`.

    Args:
      mean: [*batch, d].
      scale_tril: [*batch, d, d], or [d, d] for all of the batch; lower triangular, positive diagonal.
      offset: a second term of the mean, broadcasting to it.

    Raises:
      ValueError: if a parameter has another shape, or holds no real numbers.
    """

    _parameters = ("origin", "offset", "scale_tril")
    origin: Array
    offset: Array
    scale_tril: Array

    def __init__(self, mean: Any, scale_tril: Any, *, offset: Any = 0.0) -> None:
        origin = as_float32(mean, "mean")
        if origin.ndim < 1:
            raise ValueError("mean: must have an axis of coordinates, got a number")
        set_value = object.__setattr__
        set_value(self, "origin", origin)
        set_value(self, "offset", parameter("offset", offset, origin.shape))
        set_value(self, "scale_tril", parameter("scale_tril", scale_tril, (*origin.shape, origin.shape[-1])))
        set_value(self, "event_ndim", 1)

    @classmethod
    def of(cls, p: Normal | FullNormal) -> FullNormal:
        """Return the same law, p of shape [*batch, d], as one of this class."""
        if isinstance(p, FullNormal):
            return p
        return cls(p.origin, diagonal(jnp.sqrt(p.variance)), offset=p.offset)

    @classmethod
    def of_covariance(cls, mean: Any, covariance: Array, *, offset: Any = 0.0) -> FullNormal:
        """Return the law of this covariance, [*batch, d, d], positive semi-definite."""
        return cls(mean, cholesky(covariance), offset=offset)

    @property
    def mean(self) -> Array:
        """E[x], [*batch, d]."""
        return self.origin + self.offset

    @property
    def covariance(self) -> Array:
        """Cov[x], [*batch, d, d]."""
        return gram(self.scale_tril)

    @property
    def variance(self) -> Array:
        """Variance of each coordinate, [*batch, d]."""
        return (self.scale_tril**2).sum(-1)

    def mean_less(self, origin: Array) -> Array:
        """Return E[x] - origin, which loses nothing where the mean begins there."""
        return (self.origin - origin) + self.offset

    def place(self, noise: Array) -> Array:
        """Return mean + scale_tril noise, the sample that standard normal noise stands for."""
        tril, dim = self.scale_tril, self.origin.shape[-1]
        spread = [sum(tril[..., i, j] * noise[..., j] for j in range(i + 1)) for i in range(dim)]
        return self.mean + jnp.stack(spread, axis=-1)

    def sample(self, key: Array) -> Array:
        """Sample x; differentiable in the law, the noise being a function of key alone."""
        return self.place(jax.random.normal(key, self.origin.shape, jnp.float32))

    def log_prob(self, x: Array) -> Array:
        """Return log p(x) in nats, [*batch], to a relative error of 1e-6 of its largest term."""
        residual = (as_float32(x) - self.origin) - self.offset
        z = solve_lower(self.scale_tril, residual)
        return -0.5 * self._sum(z**2 + self._log_variance() + LOG_2PI)

    def _log_variance(self) -> Array:
        """Return the variance of each coordinate given those before it."""
        return 2 * jnp.log(jnp.diagonal(self.scale_tril, axis1=-2, axis2=-1))

    def entropy(self) -> Array:
        """Return the differential entropy in nats, [*batch]."""
        return 0.5 * self._sum(self._log_variance() + LOG_2PI + 1)

    def kl(self, other: Any) -> Array:
        """Return KL(self || other) in nats, [*batch]; the determinants cancel to float32's rounding of them."""
        p = FullNormal.of(other)
        dim = p.origin.shape[-1]
        difference = self.mean_less(p.origin) - p.offset
        columns = [solve_lower(p.scale_tril, self.scale_tril[..., i]) for i in range(dim)]
        trace = sum((column**2 for column in columns), jnp.zeros_like(difference))
        squares = solve_lower(p.scale_tril, difference) ** 2
        return 0.5 * self._sum(squares + trace - 1 - self._log_variance() + p._log_variance())

    def kl_from_normal(self, q: Normal) -> Array:
        """Return KL(q || self) in nats, of independent components q, as every posterior has.

        As `Normal.kl`, with the variance of each coordinate given those before it; the rest of the trace is
        added, which is positive.
        """
        dim = self.scale_tril.shape[-1]
        difference = q.mean_less(self.origin) - self.offset
        scale = diagonal(jnp.sqrt(q.variance))
        columns = [jnp.where(jnp.arange(dim) > i, solve_lower(self.scale_tril, scale[..., i]), 0.0) for i in range(dim)]
        below = sum((c**2 for c in columns), jnp.zeros_like(difference))
        conditional = jnp.diagonal(self.scale_tril, axis1=-2, axis2=-1) ** 2
        squares = solve_lower(self.scale_tril, difference) ** 2
        return 0.5 * self._sum(squares + below + excess(q.variance, conditional))

    def product(self, evidence: Normal) -> tuple[FullNormal, Array]:
        """Return p(x) r(x) / Z and log Z in nats, [*batch], one coordinate observed after another.

        Args:
          evidence: r, about each coordinate by itself, broadcasting to the law.
        """
        dim = self.origin.shape[-1]
        shape = self.origin.shape
        value, noise = (jnp.broadcast_to(part, shape) for part in (evidence.mean, evidence.variance))
        mean, covariance, log_z = self.mean, self.covariance, jnp.zeros(shape[:-1], self.origin.dtype)
        for i in range(dim):
            before = Normal(mean[..., i], covariance[..., i, i])
            after, log_zi = before.observe(Normal(value[..., i], noise[..., i]))
            certain = before.variance <= 0
            # The other coordinates follow in proportion to their covariance with this one.
            column = covariance[..., i] / jnp.where(certain, 1.0, before.variance)[..., None]
            column = jnp.where(certain[..., None], 0.0, column)
            mean = (mean + column * (after.mean - before.mean)[..., None]).at[..., i].set(after.mean)
            shrink = (before.variance - after.variance)[..., None, None]
            covariance = covariance - shrink * column[..., :, None] * column[..., None, :]
            # What is known varies with nothing any more, not even by rounding.
            own = (jnp.arange(dim) == i)[:, None] | (jnp.arange(dim) == i)[None]
            own = own.reshape(*(1,) * (covariance.ndim - 2), dim, dim)
            covariance = jnp.where((noise[..., i] == 0)[..., None, None] & own, 0.0, covariance)
            log_z = log_z + log_zi
        return FullNormal.of_covariance(mean, covariance), log_z

    def tilt(self, log_r: Callable[[Array], Array] | Array) -> FullNormal:
        """Return p(x) r(x) / Z with log r linear: the mean moves by covariance times its slope.

        Args:
          log_r: as of `Normal.tilt`.
        """
        slope = slope_at(self.mean, log_r)
        return FullNormal(self.mean + (self.covariance * slope[..., None, :]).sum(-1), self.scale_tril)

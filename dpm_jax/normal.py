"""Normal laws: independent, or with full covariance in few dimensions; the verbs that need no diffusion.

Shapes: x is [B, ...]. Sums are over everything but the batch, in nats. All is float32.
`bernoulli` has the same verbs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import log_ndtr

from dpm_jax.shapes import as_float32, select, sum_event
from dpm_jax.small_differences import x_minus_log1p
from dpm_jax.small_matrices import cholesky, gram, solve_lower

__all__ = [
    "FullNormal",
    "Law",
    "Normal",
    "Sum",
    "as_full",
    "bin_log_prob",
    "entropy",
    "kl",
    "known",
    "log_overlap",
    "log_prob",
    "mean",
    "mean_less",
    "noise",
    "place",
    "point",
    "product",
    "sample",
    "slope",
    "tilted",
    "variance",
    "where",
]

_LOG_2PI = math.log(2 * math.pi)


class Sum(NamedTuple):
    """A mean in two terms, origin + offset, that float32 could not hold as one.

    The laws of fine reverse steps differ by less than the rounding of their means. They share the origin, so that
    their difference is the difference of the offsets.
    """

    origin: Array
    offset: Array


class Normal(NamedTuple):
    """Independent normals.

    Attributes:
      location: the mean, of x's shape, or a `Sum` of two such arrays; `mean` has it as one array.
      variance: of x's shape, or broadcasting to it with the same number of axes.
    """

    location: Array | Sum
    variance: Array

    @property
    def mean(self) -> Array:
        """E[x], [B, ...]."""
        return _total(self.location)


class FullNormal(NamedTuple):
    """A normal with full covariance, for low-dimensional data: its algebra is unrolled, for d up to about 6.

    Attributes:
      location: [B, d] the mean, or a `Sum`; `mean` has it as one array.
      scale_tril: [B, d, d], lower triangular, positive diagonal; covariance
        scale_tril @ scale_tril^T.
    """

    location: Array | Sum
    scale_tril: Array

    @property
    def mean(self) -> Array:
        """E[x], [B, d]."""
        return _total(self.location)


Law = TypeVar("Law", Normal, FullNormal)


# --- Means ---


def _total(location: Array | Sum) -> Array:
    return location.origin + location.offset if isinstance(location, Sum) else location


def _terms(location: Array | Sum) -> Sum:
    return location if isinstance(location, Sum) else Sum(location, jnp.zeros_like(location))


def mean_less(p: Normal | FullNormal, origin: Array) -> Array:
    """Return E[x] - origin, [B, ...], which loses nothing where p's mean is a `Sum` that begins there."""
    if not isinstance(p.location, Sum):
        return p.location - origin
    return (p.location.origin - origin) + p.location.offset


def _residual(x: Array, p: Normal | FullNormal) -> Array:
    """x - E[x], which loses little for x near the origin of a `Sum`."""
    if not isinstance(p.location, Sum):
        return x - p.location
    return (x - p.location.origin) - p.location.offset


def _mean_difference(q: Normal | FullNormal, p: Normal | FullNormal) -> Array:
    if not isinstance(p.location, Sum):
        return q.mean - p.location
    return mean_less(q, p.location.origin) - p.location.offset


def where(which: Array, p: Law, q: Law) -> Law:
    """Return p for the examples with `which`, bool [B], and q, of the same type, for the others."""
    location: Array | Sum
    if isinstance(p.location, Sum) or isinstance(q.location, Sum):
        terms = zip(_terms(p.location), _terms(q.location), strict=True)
        location = Sum(*(select(which, one, other) for one, other in terms))
    else:
        location = select(which, p.location, q.location)
    return type(p)(location, select(which, p[1], q[1]))


# --- Sampling, densities, entropies, the KL divergence of equation 14 ---


def as_full(p: Normal | FullNormal) -> FullNormal:
    """The same law, as a `FullNormal`; p of shape [B, d]."""
    if isinstance(p, FullNormal):
        return p
    return FullNormal(p.location, jnp.sqrt(p.variance)[..., None] * jnp.eye(p.mean.shape[-1], dtype=jnp.float32)[None])


def noise(key: Array, shape: tuple[int, ...]) -> Array:
    """What `place` makes samples of: standard normal, float32."""
    return jax.random.normal(key, shape, jnp.float32)


def place(p: Normal | FullNormal, noise: Array) -> Array:
    """mean + scale * noise: the sample of p that this noise stands for, [B, ...]."""
    if isinstance(p, FullNormal):
        tril, dim = p.scale_tril, p.mean.shape[-1]
        spread = [sum(tril[..., i, j] * noise[..., j] for j in range(i + 1)) for i in range(dim)]
        return p.mean + jnp.stack(spread, axis=-1)
    # Where x is certain, the gradient of the root would be infinite.
    uncertain = p.variance > 0
    scale = jnp.where(uncertain, jnp.sqrt(jnp.where(uncertain, p.variance, 1.0)), 0.0)
    return p.mean + scale * noise


def sample(key: Array, p: Normal | FullNormal) -> Array:
    """A draw of p's shape, [B, ...]; differentiable in p, the noise being a function of key alone."""
    return place(p, noise(key, p.mean.shape))


def log_prob(p: Normal | FullNormal, x: Array) -> Array:
    """Return log p(x) in nats, [B], to a relative error of 1e-6 of its largest term."""
    residual = _residual(as_float32(x), p)
    if isinstance(p, FullNormal):
        z = solve_lower(p.scale_tril, residual)
        log_variance = 2 * jnp.log(jnp.diagonal(p.scale_tril, axis1=-2, axis2=-1))
        return -0.5 * sum_event(z**2 + log_variance + _LOG_2PI)
    return -0.5 * sum_event(_square(residual, p.variance) + jnp.log(p.variance) + _LOG_2PI)


def _square(residual: Array, variance: Array) -> Array:
    """residual^2 / variance, without the square, which float32 may not hold."""
    return residual * (residual / variance)


def bin_log_prob(p: Normal, x: Array, *, width: float, lowest: float, highest: float) -> Array:
    """log of the mass that p gives to the bin about x, in nats, [B]: a discretised decoder (DDPM, equation 13).

    With p(x_0 | x_1) for p this makes K a bound on the log-probability of quantised data
    themselves, with no noise added to them.

    Args:
      p: independent normals.
      x: [B, ...], middles of bins.
      width: of a bin.
      lowest: middle of the first bin, which reaches to -infinity.
      highest: middle of the last bin, which reaches to infinity: so all masses sum to one.
    """
    scale = jnp.sqrt(p.variance)
    low = jnp.where(x > lowest + width / 2, (x - width / 2 - p.mean) / scale, -jnp.inf)
    high = jnp.where(x < highest - width / 2, (x + width / 2 - p.mean) / scale, jnp.inf)
    # In the lower tail, where the logarithm of the distribution function keeps its digits.
    flip = low + high > 0
    low, high = jnp.where(flip, -high, low), jnp.where(flip, -low, high)
    log_high, log_low = log_ndtr(high), log_ndtr(low)
    return sum_event(log_high + jnp.log(-jnp.expm1(log_low - log_high)))


def entropy(p: Normal | FullNormal) -> Array:
    """Differential entropy in nats, [B]."""
    if isinstance(p, FullNormal):
        log_variance = 2 * jnp.log(jnp.diagonal(p.scale_tril, axis1=-2, axis2=-1))
    else:
        log_variance = jnp.broadcast_to(jnp.log(p.variance), p.mean.shape)
    return 0.5 * sum_event(log_variance + _LOG_2PI + 1)


def kl(q: Normal, p: Normal | FullNormal) -> Array:
    """Return KL(q || p) in nats, [B], of independent components q, as every posterior has.

    Each coordinate adds 1/2 [(difference of means)^2 / var_p + r - 1 - log r], r = var_q / var_p. The relative error of
    the second part is 1e-6 for r between 1e-12 and 1e12, however near 1, given the variances as float32 has
    them; that of the first is twice that of the difference of means. With a full covariance, r is that of the
    conditional variances L_ii^2, and the rest of the trace is added, which is positive.
    """
    difference = _mean_difference(q, p)
    if isinstance(p, FullNormal):
        dim = p.scale_tril.shape[-1]
        scale = jnp.sqrt(q.variance)
        columns = [
            jnp.where((jnp.arange(dim) > i)[None], solve_lower(p.scale_tril, scale * axis[None]), 0.0)
            for i, axis in enumerate(jnp.eye(dim, dtype=jnp.float32))
        ]
        below = sum((c**2 for c in columns), jnp.zeros_like(scale))
        conditional = jnp.diagonal(p.scale_tril, axis1=-2, axis2=-1) ** 2
        squares = solve_lower(p.scale_tril, difference) ** 2
        return 0.5 * sum_event(squares + below + _excess(q.variance, conditional))
    return 0.5 * sum_event(_square(difference, p.variance) + _excess(q.variance, p.variance))


def _excess(q: Array, p: Array) -> Array:
    """r - 1 - log r of the variances' ratio r = q / p, zero where they are equal."""
    ratio, x = q / p, (q - p) / p
    near = (x >= -0.5) & (x <= 1)
    # The branch that is not selected must stay finite, or gradients would be NaN.
    return jnp.where(near, x_minus_log1p(jnp.where(near, x, 0.0)), ratio - 1 - jnp.log(ratio))


# --- Products with evidence r(x), section 2.5 and appendix C ---
#
# Evidence about each coordinate by itself is a `Normal` too: r(x) = N(mean; x, variance), the
# likelihood of having observed `mean`. Variance 0 says that x is known, infinity that it was
# not observed, and then r = 1 and `mean` is not looked at.


def mean(p: Normal | FullNormal) -> Array:
    """E[x], [B, ...]."""
    return p.mean


def variance(p: Normal | FullNormal) -> Array:
    """Of each coordinate, [B, ...]."""
    if isinstance(p, FullNormal):
        return (p.scale_tril**2).sum(-1)
    return jnp.broadcast_to(p.variance, p.mean.shape)


def point(x: Array) -> Normal:
    """Return the law under which x [B, ...] is certain; `log_overlap(point(x), r)` is log r(x)."""
    x = as_float32(x)
    return Normal(x, jnp.zeros_like(x))


def known(x: Array, observed: Array) -> Normal:
    """Return the evidence that coordinates of x are known, as `product` takes it.

    Args:
      x: [B, ...].
      observed: bool, broadcasting to it.
    """
    x = as_float32(x)
    return Normal(x, jnp.where(observed, 0.0, jnp.full_like(x, jnp.inf)))


def slope(p: Normal | FullNormal, log_r: Callable[[Array], Array]) -> Array:
    """What `tilted` takes in place of log r: its gradient at p's mean, [B, ...] (Table App.1).

    Args:
      p: a law of x.
      log_r: x [B, ...] -> [B], differentiable; an example's value depends on that example alone.
    """
    gradient: Array = jax.grad(lambda x: log_r(x).sum())(p.mean)
    return gradient


def tilted(p: Law, slope: Array) -> Law:
    """p(x) exp(slope . x) / Z: the mean shifted by covariance times slope.

    Args:
      p: a law of x.
      slope: [B, ...].
    """
    if isinstance(p, FullNormal):
        covariance = gram(p.scale_tril)
        return p._replace(location=p.mean + (covariance * slope[..., None, :]).sum(-1))
    return p._replace(location=p.mean + p.variance * slope)


def _observe(p: Normal, r: Normal) -> tuple[Normal, Array]:
    """p(x) r(x) / Z and log Z, coordinate by coordinate; [B, ...] each."""
    known, seen = r.variance == 0, jnp.isfinite(r.variance)
    # Where nothing was seen, and where r is a point, the formulas are not used; they must stay finite.
    variance = jnp.where(seen & ~known, r.variance, 1.0)
    total = p.variance + jnp.where(known, 0.0, variance)
    # A certain x that was observed elsewhere is as good as impossible, and yet finite.
    spread = jnp.maximum(total, 1e-12)
    difference = jnp.where(seen, r.mean, p.mean) - p.mean
    gain = jnp.where(seen, jnp.where(known, 1.0, p.variance / spread), 0.0)
    rest = jnp.where(seen, jnp.where(known, 0.0, variance / spread), 1.0)
    log_z = -0.5 * (difference**2 / spread + jnp.log(spread) + _LOG_2PI)
    mean = jnp.where(known, r.mean, p.mean + gain * difference)
    return Normal(mean, p.variance * rest), jnp.where(seen, log_z, 0.0)


def _observe_full(p: FullNormal, r: Normal) -> tuple[FullNormal, Array]:
    """p(x) r(x) / Z and log Z, [B], one coordinate observed after another."""
    dim = p.mean.shape[-1]
    r = Normal(*(jnp.broadcast_to(value, p.mean.shape) for value in (r.mean, r.variance)))
    mean, covariance, log_z = p.mean, gram(p.scale_tril), jnp.zeros(p.mean.shape[0], p.mean.dtype)
    for i in range(dim):
        before = Normal(mean[..., i], covariance[..., i, i])
        after, log_zi = _observe(before, Normal(r.mean[..., i], r.variance[..., i]))
        certain = before.variance <= 0
        # The other coordinates follow in proportion to their covariance with this one.
        column = covariance[..., i] / jnp.where(certain, 1.0, before.variance)[..., None]
        column = jnp.where(certain[..., None], 0.0, column)
        mean = (mean + column * (after.mean - before.mean)[..., None]).at[..., i].set(after.mean)
        shrink = (before.variance - after.variance)[..., None, None]
        covariance = covariance - shrink * column[..., :, None] * column[..., None, :]
        # What is known varies with nothing any more, not even by rounding.
        own = ((jnp.arange(dim) == i)[:, None] | (jnp.arange(dim) == i)[None])[None]
        covariance = jnp.where((r.variance[..., i] == 0)[..., None, None] & own, 0.0, covariance)
        log_z = log_z + log_zi
    return FullNormal(mean, cholesky(covariance)), log_z


def product(p: Law, r: Normal) -> Law:
    """p(x) r(x) / Z in closed form, for evidence about each coordinate by itself.

    Args:
      p: a law of x, [B, ...].
      r: evidence, broadcasting to it.
    """
    return _observe_full(p, r)[0] if isinstance(p, FullNormal) else _observe(p, r)[0]


def log_overlap(p: Normal | FullNormal, r: Normal) -> Array:
    """log Z of `product`: the log-likelihood of what was observed, if x has the law p, [B] nats."""
    if isinstance(p, FullNormal):
        return _observe_full(p, r)[1]
    return sum_event(_observe(p, r)[1])

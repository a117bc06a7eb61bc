"""Laws of independent bits, and evidence about each of them.

Laws are kept as logits, which give both log p and log(1 - p) without loss. x holds 0.0 and 1.0.

Evidence is a `Bernoulli` too: r(x) = its probability of x, which for a bit y seen through flips of rate f is the
likelihood, logit (2 y - 1) log((1 - f) / f) (section 2.5 and appendix C). Infinite logits say that the bit is known,
0 that it was not observed, and then r = 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero
from jax.nn import log_sigmoid

from dpm_jax.distributions.base import Law, event_ndim_of
from dpm_jax.numerics.shapes import as_float32
from dpm_jax.numerics.small_differences import expm1_minus_x, x_minus_log1p

__all__ = ["Bernoulli", "signs"]


def signs(x: Any) -> Array:
    """Return 2 x - 1 of bits x, float32 of x's shape: -1 for 0 and 1 for 1, and NaN for any other number."""
    x = as_float32(x)
    return jnp.where((x == 0) | (x == 1), 2 * x - 1, jnp.nan)


def _divergence(logits: Array, other_logits: Array) -> tuple[Array, Array, Array]:
    """Return the KL of `Bernoulli.kl` bit by bit, and its slopes in the logits: p(1) p(0) (l - l') and p'(1) - p(1)."""
    turned = logits > 0
    turn = jnp.where(turned, -1.0, 1.0)
    own, others = jnp.where(turned, -logits, logits), turn * other_logits
    tail = jnp.exp(own)
    common = 1 / (1 + tail)
    rare = tail * common
    certain = rare == 0
    size = jnp.where(certain, 0.0, -own)
    u = others + size
    is_small = (jnp.abs(u) <= 1) & ~certain
    # Where |u| > 1 the series is wrong, and not used.
    beyond = expm1_minus_x(u)
    y = jnp.where(is_small, rare * (u + beyond), (jnp.exp(-jnp.abs(others)) - tail) * common)
    less = x_minus_log1p(y)
    above = others > 0
    # Written so that nothing is infinity less infinity, or zero times it, where one of the laws is certain.
    far = jnp.where(above, others * common, 0.0) - rare * jnp.where(above | certain, size, u) + (y - less)
    odds = 1 / (1 + y)
    gained = common * jnp.where(above & ~is_small, odds - tail, y * odds)
    spread = jnp.where(certain, 0.0, rare * common * u)
    return jnp.where(is_small, rare * beyond - less, far), -turn * spread, turn * gained


@jax.custom_jvp
def _kl(logits: Array, other_logits: Array) -> Array:
    return _divergence(logits, other_logits)[0]


@partial(_kl.defjvp, symbolic_zeros=True)
def _kl_jvp(primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Any]:
    value, *slopes = _divergence(*primals)
    moved = (s * dx for s, dx in zip(slopes, tangents, strict=True) if not isinstance(dx, SymbolicZero))
    return value, sum(moved, jnp.zeros_like(value))


class Bernoulli(Law):
    """Independent bits.

    Args:
      logits: [*batch, *event] log p(1) - log p(0); +-inf where certain.
      event_ndim: how many of the last axes are one event, a sum in `log_prob`; all but the first if None.

    Raises:
      ValueError: if the logits are no real numbers.
    """

    _parameters = ("logits",)
    logits: Array

    def __init__(self, logits: Any, *, event_ndim: int | None = None) -> None:
        values = as_float32(logits, "logits")
        object.__setattr__(self, "logits", values)
        object.__setattr__(self, "event_ndim", event_ndim_of(values.ndim, event_ndim))

    @classmethod
    def point(cls, x: Array, *, event_ndim: int | None = None) -> Bernoulli:
        """Return the law under which x [B, ...] is certain; log Z of its product with r is log r(x)."""
        return cls(jnp.inf * signs(x), event_ndim=event_ndim)

    @classmethod
    def known(cls, x: Array, observed: Array, *, event_ndim: int | None = None) -> Bernoulli:
        """Return the evidence that bits of x are known.

        Args:
          x: [B, ...].
          observed: bool, broadcasting to it.
          event_ndim: as of the class.
        """
        return cls(jnp.where(observed, jnp.inf * signs(x), 0.0), event_ndim=event_ndim)

    @property
    def mean(self) -> Array:
        """E[x] = p(1), [*batch, *event]."""
        return jax.nn.sigmoid(self.logits)

    @property
    def variance(self) -> Array:
        """Variance of each bit, [*batch, *event]."""
        return jax.nn.sigmoid(self.logits) * jax.nn.sigmoid(-self.logits)

    def sample(self, key: Array) -> Array:
        """Sample bits, 0.0 or 1.0 in float32; NaN where a logit is."""
        noise = jax.random.bits(key, self.logits.shape, jnp.uint32)
        # The rarer value, against all 32 random bits: float32 uniforms know no rate below 1e-7.
        rare = jax.nn.sigmoid(-jnp.abs(self.logits)) * 2.0**32
        happens = noise < rare.astype(jnp.uint32)
        bits = jnp.where(self.logits > 0, ~happens, happens).astype(jnp.float32)
        return jnp.where(jnp.isnan(self.logits), jnp.nan, bits)

    def log_prob(self, x: Array) -> Array:
        """Return log p(x) in nats, [*batch], to a relative error of 1e-6; x of 0 and 1."""
        return self._sum(log_sigmoid(signs(x) * self.logits))

    def entropy(self) -> Array:
        """Return the entropy in nats, [*batch]; certain bits have none."""
        size = jnp.abs(self.logits)
        certain = jnp.isinf(size)
        size = jnp.where(certain, 0.0, size)
        # H = softplus(-|l|) + |l| sigmoid(-|l|): both terms positive, nothing cancels.
        return self._sum(jnp.where(certain, 0.0, jax.nn.softplus(-size) + size * jax.nn.sigmoid(-size)))

    def kl(self, other: Bernoulli) -> Array:
        """Return KL(self || other) in nats, [*batch], to a relative error of 1e-6 a bit for logits from -40 to 40.

        With m <= 1/2 the probability under self of the value that self makes less likely, l < 0 its logit, and u the
        logit that other gives it less l, each bit adds

            softplus(l + u) - softplus(l) - m u  =  m (e^u - 1 - u) - (y - log(1 + y)),   y = m (e^u - 1).

        Nothing cancels in the first form for |u| > 1, nor in the second for |u| <= 1: its second term is at most half
        of the first. Both take one logarithm: where l + u > 0 the first is l + u - m u + log(1 + y) for
        y = m (e^{-(2 l + u)} - 1), which stays in [-1/2, 1].
        """
        return self._sum(_kl(self.logits, other.logits))

    def product(self, evidence: Bernoulli) -> tuple[Bernoulli, Array]:
        """Return p(x) r(x) / Z and log Z in nats, [*batch]; where r is certain, p is not asked.

        Args:
          evidence: r, broadcasting to the law.
        """
        p, r = self.logits, evidence.logits
        known = jnp.isinf(r)
        law = Bernoulli(jnp.where(known, r, p + jnp.where(known, 0.0, r)), event_ndim=self.event_ndim)
        both = jnp.logaddexp(log_sigmoid(p) + log_sigmoid(r), log_sigmoid(-p) + log_sigmoid(-r))
        return law, self._sum(jnp.where(r == 0, 0.0, both))

    def tilt(self, log_r: Callable[[Array], Array] | Array) -> Bernoulli:
        """Return p(x) r(x) / Z, the odds of each bit tilted by the ratio of r at 1 and 0 (Table App.1).

        Args:
          log_r: x -> [*batch], finite, and defined between 0 and 1 as well: one bit at a time is 1 and 0, all others
            are at their rates, 2 d calls. Or the slope of a linear log r, of the law's shape.
        """
        slope = self._slope(log_r) if callable(log_r) else log_r
        return Bernoulli(self.logits + slope, event_ndim=self.event_ndim)

    def _slope(self, log_r: Callable[[Array], Array]) -> Array:
        """log r(bit = 1) - log r(bit = 0), all others at their rates."""
        rates = self.mean
        flat = rates.reshape(*self.batch_shape, -1)

        def ratio(bit: Array) -> Array:
            one, zero = (log_r(flat.at[..., bit].set(value).reshape(rates.shape)) for value in (1.0, 0.0))
            return one - zero

        ratios: Array = jax.lax.map(ratio, jnp.arange(flat.shape[-1]))
        return jnp.moveaxis(ratios, 0, -1).reshape(rates.shape)

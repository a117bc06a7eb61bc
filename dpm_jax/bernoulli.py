"""Laws of independent bits; the verbs that need no diffusion.

Laws are kept as logits, from which both log p and log(1 - p) are had without loss.
Shapes: x is [B, ...] of 0.0 and 1.0 (float32). Sums are over everything but the batch, in
nats. `normal` has the same verbs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import log_sigmoid, softplus

from dpm_jax.shapes import as_float32, select, sum_event
from dpm_jax.small_differences import expm1_minus_x, x_minus_log1p

__all__ = [
    "Bernoulli",
    "entropy",
    "kl",
    "known",
    "log_overlap",
    "log_prob",
    "mean",
    "noise",
    "place",
    "point",
    "product",
    "sample",
    "signs",
    "slope",
    "tilted",
    "variance",
    "where",
]


class Bernoulli(NamedTuple):
    """Independent bits: logits log p(1) - log p(0), of x's shape; +-inf where certain."""

    logits: Array


def signs(x: Array) -> Array:
    """Return 2 x - 1 of bits x, float32 of x's shape: -1 for 0 and 1 for 1, and NaN for any other number."""
    x = as_float32(x)
    return jnp.where((x == 0) | (x == 1), 2 * x - 1, jnp.nan)


def where(which: Array, p: Bernoulli, q: Bernoulli) -> Bernoulli:
    """Return p for the examples with `which`, bool [B], and q for the others."""
    return Bernoulli(select(which, p.logits, q.logits))


# --- Sampling, densities, entropies, the KL divergence of equation 14 ---


def noise(key: Array, shape: tuple[int, ...]) -> Array:
    """What `place` makes samples of: 32 random bits a bit, uint32."""
    return jax.random.bits(key, shape, jnp.uint32)


def place(p: Bernoulli, noise: Array) -> Array:
    """Return the sample of p that this noise stands for, [B, ...], 0.0 or 1.0 in float32; NaN where a logit is."""
    # The rarer value, against all 32 random bits: float32 uniforms know no rate below 1e-7.
    rare = jax.nn.sigmoid(-jnp.abs(p.logits)) * 2.0**32
    happens = noise < rare.astype(jnp.uint32)
    bits = jnp.where(p.logits > 0, ~happens, happens).astype(jnp.float32)
    return jnp.where(jnp.isnan(p.logits), jnp.nan, bits)


def sample(key: Array, p: Bernoulli) -> Array:
    """A draw of p's shape, [B, ...], 0.0 or 1.0 in float32."""
    return place(p, noise(key, p.logits.shape))


def log_prob(p: Bernoulli, x: Array) -> Array:
    """Return log p(x) in nats, [B], to a relative error of 1e-6; x of 0 and 1."""
    return sum_event(log_sigmoid(signs(x) * p.logits))


def entropy(p: Bernoulli) -> Array:
    """Entropy in nats, [B]; certain bits have none."""
    size = jnp.abs(p.logits)
    certain = jnp.isinf(size)
    size = jnp.where(certain, 0.0, size)
    # H = softplus(-|l|) + |l| sigmoid(-|l|): both terms positive, nothing cancels.
    return sum_event(jnp.where(certain, 0.0, softplus(-size) + size * jax.nn.sigmoid(-size)))


def kl(q: Bernoulli, p: Bernoulli) -> Array:
    """Return KL(q || p) in nats, [B], to a relative error of 1e-6 a bit for logits between -40 and 40.

    With m <= 1/2 the probability under q of the value that q makes less likely, l < 0 its logit, and u the
    logit that p gives it less l, each bit adds

        softplus(l + u) - softplus(l) - m u  =  m (e^u - 1 - u) - (y - log(1 + y)),   y = m (e^u - 1).

    Nothing cancels in the first form for |u| > 1, nor in the second for |u| <= 1: its second term is at most half
    of the first.
    """
    size = jnp.abs(q.logits)
    rare = jax.nn.sigmoid(-size)
    certain = rare == 0
    size = jnp.where(certain, 0.0, size)
    common_is_one = q.logits > 0
    u = jnp.where(common_is_one, -p.logits, p.logits) + size
    is_small = jnp.abs(u) <= 1
    # The branch that is not selected must not overflow, or its gradient would be NaN.
    small = jnp.where(is_small, u, 0.0)
    near = rare * expm1_minus_x(small) - x_minus_log1p(rare * jnp.expm1(small))
    far = softplus(u - size) - softplus(-size) - rare * u
    uncertain = jnp.where(is_small, near, far)
    return sum_event(jnp.where(certain, softplus(jnp.where(common_is_one, -p.logits, p.logits)), uncertain))


# --- Products with evidence r(x), section 2.5 and appendix C ---
#
# Evidence about each bit by itself is a `Bernoulli` too: r(x) = its probability of x, which for a
# bit y seen through flips of rate f is the likelihood, logit (2 y - 1) log((1 - f) / f). Infinite
# logits say that the bit is known, 0 that it was not observed, and then r = 1.


def mean(p: Bernoulli) -> Array:
    """E[x] = p(1), [B, ...]."""
    return jax.nn.sigmoid(p.logits)


def variance(p: Bernoulli) -> Array:
    """Of each bit, [B, ...]."""
    return jax.nn.sigmoid(p.logits) * jax.nn.sigmoid(-p.logits)


def point(x: Array) -> Bernoulli:
    """Return the law under which x [B, ...] is certain; `log_overlap(point(x), r)` is log r(x)."""
    return Bernoulli(jnp.inf * signs(x))


def known(x: Array, observed: Array) -> Bernoulli:
    """Evidence that bits of x are known, as `product` takes it.

    Args:
      x: [B, ...].
      observed: bool, broadcasting to it.
    """
    return Bernoulli(jnp.where(observed, point(x).logits, 0.0))


def slope(p: Bernoulli, log_r: Callable[[Array], Array]) -> Array:
    """What `tilted` takes in place of log r: log r(bit = 1) - log r(bit = 0), all others at their rates, [B, ...].

    The paper's tilt by the ratio of r at 1 and 0 (Table App.1), a bit at a time: 2 d calls of log_r.

    Args:
      p: a law of x.
      log_r: x [B, ...] -> [B], finite, and defined between 0 and 1 as well.
    """
    rates = mean(p)
    flat = rates.reshape(rates.shape[0], -1)

    def ratio(bit: Array) -> Array:
        one, zero = (log_r(flat.at[:, bit].set(value).reshape(rates.shape)) for value in (1.0, 0.0))
        return one - zero

    ratios: Array = jax.lax.map(ratio, jnp.arange(flat.shape[1]))
    return ratios.T.reshape(rates.shape)


def tilted(p: Bernoulli, slope: Array) -> Bernoulli:
    """p(x) exp(slope . x) / Z: the logits shifted by the slope.

    Args:
      p: a law of x.
      slope: [B, ...].
    """
    return Bernoulli(p.logits + slope)


def product(p: Bernoulli, r: Bernoulli) -> Bernoulli:
    """p(x) r(x) / Z in closed form; where r is certain, p is not asked.

    Args:
      p: a law of x, [B, ...].
      r: evidence, broadcasting to it.
    """
    known = jnp.isinf(r.logits)
    return Bernoulli(jnp.where(known, r.logits, p.logits + jnp.where(known, 0.0, r.logits)))


def log_overlap(p: Bernoulli, r: Bernoulli) -> Array:
    """log Z of `product`: the log-likelihood of what was observed, if x has the law p, [B] nats."""
    both = jnp.logaddexp(log_sigmoid(p.logits) + log_sigmoid(r.logits), log_sigmoid(-p.logits) + log_sigmoid(-r.logits))
    return sum_event(jnp.where(r.logits == 0, 0.0, both))

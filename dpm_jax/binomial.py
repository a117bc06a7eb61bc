"""Binomial diffusion of bits: the paper's Table App.1, right column, in the order of the derivation.

    q(x_t = 1 | x_{t-1})      = x_{t-1} (1 - beta_t) + beta_t / 2                    forward
    q(x_t = 1 | x_0)          = x_0 alpha_bar_t + (1 - alpha_bar_t) / 2              marginal, q_sample
    q(x_{t-1} | x_t, x_0)     : logit = 2 atanh(1 - beta_t) s_t
                                      + 2 atanh(alpha_bar_{t-1}) s_0                 q_posterior
    p(x_{t-1} = 1 | x_t)      = f_b(x_t, t)                                          *_reverse
    pi(x = 1)                 = 1/2                                                  prior

with s = 2 x - 1. A step keeps a bit with probability 1 - beta_t and otherwise replaces
it by a fair coin, so the two coefficients of the posterior's logit are the log-odds that
a bit is unchanged over one step and over the first t - 1.

Laws are kept as logits, from which both log p and log(1 - p) are had without loss.
Shapes: x is [B, ...] of 0.0 and 1.0 (float32); t is int32 [B], in 1..T (0..T for
`marginal`). Sums are over everything but the batch, in nats. `gaussian` has the same verbs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import log_sigmoid, softplus

from dpm_jax.schedules import Schedule
from dpm_jax.shapes import at, sum_event

__all__ = [
    "Bernoulli",
    "denoised_reverse",
    "entropy",
    "forward",
    "forward_edge",
    "kl",
    "log_prob",
    "marginal",
    "noise",
    "null_log_prob",
    "perturbation_reverse",
    "place",
    "prior",
    "q_posterior",
    "q_sample",
    "sample",
]


class Bernoulli(NamedTuple):
    """Independent bits: logits log p(1) - log p(0), of x's shape; +-inf where certain."""

    logits: Array


def _signed(strength: Array, x: Array) -> Array:
    """strength * s, s = 2 x - 1."""
    return strength * (2 * x - 1)


def _step_strength(schedule: Schedule, t: Array, like: Array) -> Array:
    """2 atanh(1 - beta_t): log-odds that a bit is unchanged over step t. 0 where beta_t = 1."""
    half = 0.5 * at(schedule.beta, t, like)
    return jnp.log1p(-half) - jnp.log(half)


def _marginal_strength(schedule: Schedule, t: Array, like: Array) -> Array:
    """2 atanh(alpha_bar_t) = log(1 + 2 / nu_t): log-odds that x_t = x_0. +inf at t = 0."""
    return softplus(jnp.log(2.0) - at(schedule.log_nsr, t, like))


# --- The forward trajectory, section 2.1 ---


def forward(schedule: Schedule, x_prev: Array, t: Array) -> Bernoulli:
    """One forward step, q(x_t | x_{t-1}) (equation 2, Table App.1).

    Args:
      schedule: of T steps.
      x_prev: [B, ...] x_{t-1}.
      t: [B] in 1..T.
    """
    return Bernoulli(_signed(_step_strength(schedule, t, x_prev), x_prev))


def marginal(schedule: Schedule, x_0: Array, t: Array) -> Bernoulli:
    """q(x_t | x_0): t forward steps at once. At t = 0 it is the point x_0.

    Args:
      schedule: of T steps.
      x_0: [B, ...].
      t: [B] in 0..T.
    """
    return Bernoulli(_signed(_marginal_strength(schedule, t, x_0), x_0))


def q_sample(key: Array, schedule: Schedule, x_0: Array, t: Array) -> Array:
    """x_t ~ q(x_t | x_0).

    Args:
      key: PRNG key.
      schedule: of T steps.
      x_0: [B, ...].
      t: [B] in 0..T.

    Returns:
      [B, ...] x_t, 0.0 or 1.0.
    """
    return sample(key, marginal(schedule, x_0, t))


def q_posterior(schedule: Schedule, x_0: Array, x_t: Array, t: Array) -> Bernoulli:
    """q(x_{t-1} | x_t, x_0), the forward chain run backwards from a known start (appendix B.3).

    Args:
      schedule: of T steps.
      x_0: [B, ...].
      x_t: [B, ...].
      t: [B] in 1..T. At t = 1 the logits are infinite: x_0 is known.
    """
    from_t = _signed(_step_strength(schedule, t, x_t), x_t)
    return Bernoulli(from_t + _signed(_marginal_strength(schedule, t - 1, x_0), x_0))


def prior(x: Array) -> Bernoulli:
    """pi, the law of x_T in the model: fair coins, of x's shape."""
    return Bernoulli(jnp.zeros_like(x))


# --- The reverse trajectory, section 2.2: network outputs -> p(x_{t-1} | x_t) ---


def perturbation_reverse(schedule: Schedule, x_t: Array, t: Array, outputs: Array) -> Bernoulli:
    """The rates as a perturbation of a forward step: logit f_b = z + logit q(. | x_t).

    The paper's f_b is a sigmoid of the readout; adding the forward step's logit is the
    counterpart of its Gaussian parameterisation. Zero outputs are exact for fair coins.

    Args:
      schedule: of T steps.
      x_t: [B, ...].
      t: [B] in 1..T.
      outputs: [B, ...] z.
    """
    return Bernoulli(outputs + forward(schedule, x_t, t).logits)


def denoised_reverse(schedule: Schedule, x_t: Array, t: Array, outputs: Array) -> Bernoulli:
    """p(x_{t-1} | x_t) = sum over x_0 of q(x_{t-1} | x_t, x_0) m(x_0), bit by bit.

    The network predicts the marginals m of x_0 given x_t, and the exact posteriors, of
    logits A + C and A - C, are mixed by them. With l = logit m, A = 2 atanh(1 - beta_t) s_t
    and C = 2 atanh(alpha_bar_{t-1}), the mixture's logit is

        l + h + softplus(-(v + C)) - softplus(v - C),
        h = softplus(A - C) - softplus(-A - C),   v = l + h - A,

    which stays finite where C is not: at t = 1 it is l itself.

    Args:
      schedule: of T steps.
      x_t: [B, ...].
      t: [B] in 1..T.
      outputs: [B, ...] l, the logits of m.
    """
    step, start = _step_strength(schedule, t, x_t), _marginal_strength(schedule, t - 1, x_t)
    # h is odd in A, so that it is needed once an example and not once a bit.
    h = _signed(softplus(step - start) - softplus(-step - start), x_t)
    # Beyond +-80 float32 tells no difference, and inf - inf would be NaN.
    logits = jnp.clip(outputs, -80.0, 80.0)
    v = logits + h - _signed(step, x_t)
    return Bernoulli(logits + h + softplus(-(v + start)) - softplus(v - start))


def forward_edge(
    schedule: Schedule, reverse: Callable[[Array, Array], Bernoulli]
) -> Callable[[Array, Array], Bernoulli]:
    """A reverse function whose last step p(x_0 | x_1) is the forward kernel (appendix B.2).

    Args:
      schedule: of T steps.
      reverse: (x_t, t) -> distribution; its answer at t = 1 is replaced.
    """

    def with_edge(x_t: Array, t: Array) -> Bernoulli:
        edge = forward(schedule, x_t, jnp.ones_like(t)).logits
        at_edge = (t == 1).reshape(t.shape + (1,) * (x_t.ndim - 1))
        return Bernoulli(jnp.where(at_edge, edge, reverse(x_t, t).logits))

    return with_edge


# --- Laws: sampling, densities, entropies, the KL divergence of equation 14 ---


def noise(key: Array, shape: tuple[int, ...]) -> Array:
    """What `place` makes samples of: 32 random bits a bit, uint32."""
    return jax.random.bits(key, shape, jnp.uint32)


def place(p: Bernoulli, noise: Array) -> Array:
    """The sample of p that this noise stands for, [B, ...], 0.0 or 1.0 in float32."""
    # The rarer value, against all 32 random bits: float32 uniforms know no rate below 1e-7.
    rare = jax.nn.sigmoid(-jnp.abs(p.logits)) * 2.0**32
    happens = noise < rare.astype(jnp.uint32)
    return jnp.where(p.logits > 0, ~happens, happens).astype(jnp.float32)


def sample(key: Array, p: Bernoulli) -> Array:
    """A draw of p's shape, [B, ...], 0.0 or 1.0 in float32."""
    return place(p, noise(key, p.logits.shape))


def log_prob(p: Bernoulli, x: Array) -> Array:
    """log p(x) in nats, [B]; x of 0.0 and 1.0."""
    return sum_event(log_sigmoid(jnp.where(x > 0.5, p.logits, -p.logits)))


def entropy(p: Bernoulli) -> Array:
    """Entropy in nats, [B]; certain bits have none."""
    size = jnp.abs(p.logits)
    certain = jnp.isinf(size)
    size = jnp.where(certain, 0.0, size)
    # H = softplus(-|l|) + |l| sigmoid(-|l|): both terms positive, nothing cancels.
    return sum_event(jnp.where(certain, 0.0, softplus(-size) + size * jax.nn.sigmoid(-size)))


def kl(q: Bernoulli, p: Bernoulli) -> Array:
    """KL(q || p) in nats, [B].

    With r the probability under q of the value that p makes less likely, and d the size of
    the difference of the logits, KL = r d + log(1 + r (e^{-d} - 1)), in which little cancels
    while d is small; where it is not, the sum of r log r / s and its counterpart is accurate.
    """
    certain = jnp.isinf(q.logits)
    known = jnp.where(certain, 0.0, q.logits)
    difference = p.logits - known
    q_logit = jnp.where(difference < 0, known, -known)
    d = jnp.abs(difference)
    r, rest = jax.nn.sigmoid(q_logit), jax.nn.sigmoid(-q_logit)
    # The unselected branch must not overflow, or its gradient would be NaN: hence the minimum.
    small = jnp.minimum(d, 1.0)
    near = r * small + jnp.log1p(r * jnp.expm1(-small))
    far = r * (log_sigmoid(q_logit) - log_sigmoid(q_logit - d)) + rest * (
        log_sigmoid(-q_logit) - log_sigmoid(d - q_logit)
    )
    uncertain = jnp.where(d < 1, near, far)
    return sum_event(jnp.where(certain, softplus(jnp.where(q.logits > 0, -p.logits, p.logits)), uncertain))


def null_log_prob(x_0: Array) -> Array:
    """log-probability of the null model, independent bits at the batch's own mean rate, [B] nats."""
    rate = jnp.mean(x_0)
    return sum_event(jax.scipy.special.xlogy(x_0, rate) + jax.scipy.special.xlog1py(1 - x_0, -rate))

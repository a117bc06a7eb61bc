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

Shapes: x is [B, ...] of 0.0 and 1.0 (float32); t is int32 [B], in 1..T (0..T for
`marginal`). Sums are over everything but the batch, in nats. The laws themselves are in
`bernoulli`, and here, too. `gaussian` has the same verbs.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.nn import softplus

from dpm_jax.bernoulli import (
    Bernoulli,
    entropy,
    kl,
    known,
    log_overlap,
    log_prob,
    mean,
    noise,
    place,
    point,
    product,
    sample,
    signs,
    slope,
    tilted,
    variance,
    where,
)
from dpm_jax.schedules import Schedule
from dpm_jax.shapes import as_float32, at, concrete, sum_event
from dpm_jax.types import reverse_step

__all__ = [
    "Bernoulli",
    "data",
    "denoised_reverse",
    "diffused",
    "entropy",
    "forward",
    "forward_edge",
    "kl",
    "known",
    "log_overlap",
    "log_prob",
    "marginal",
    "mean",
    "noise",
    "null_log_prob",
    "perturbation_reverse",
    "place",
    "point",
    "prior",
    "product",
    "q_posterior",
    "q_sample",
    "renoised",
    "sample",
    "slope",
    "start",
    "step",
    "tilted",
    "variance",
    "where",
]


def data(x_0: Array) -> Array:
    """Return data as this kernel computes with them, float32 of x_0's shape; the algorithms call it once.

    Raises:
      ValueError: if x_0 is known and holds anything but 0 and 1, of any type. In a traced program, where it is
        not known yet, results are NaN.
    """
    bits = as_float32(x_0, "x_0")
    if concrete(x_0) and (wrong := (values := np.asarray(x_0))[(values != 0) & (values != 1)]).size:
        raise ValueError(f"x_0: bits must be 0 or 1, got {wrong[0]:g}")
    return bits


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
    return Bernoulli(_step_strength(schedule, t, x_prev) * signs(x_prev))


def marginal(schedule: Schedule, x_0: Array, t: Array) -> Bernoulli:
    """q(x_t | x_0): t forward steps at once. At t = 0 it is the point x_0.

    Args:
      schedule: of T steps.
      x_0: [B, ...].
      t: [B] in 0..T.
    """
    return Bernoulli(_marginal_strength(schedule, t, x_0) * signs(x_0))


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
    from_t = _step_strength(schedule, t, x_t) * signs(x_t)
    return Bernoulli(from_t + _marginal_strength(schedule, t - 1, x_0) * signs(x_0))


def prior(x: Array) -> Bernoulli:
    """pi, the law of x_T in the model: fair coins, of x's shape."""
    return Bernoulli(jnp.zeros_like(x, jnp.float32))


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
    sign = signs(x_t)
    h = (softplus(step - start) - softplus(-step - start)) * sign
    # Beyond +-80 float32 tells no difference, and inf - inf would be NaN.
    logits = jnp.clip(outputs, -80.0, 80.0)
    v = logits + h - step * sign
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
        return where(t == 1, forward(schedule, x_t, jnp.ones_like(t)), reverse_step(reverse, x_t, t))

    return with_edge


# --- A reverse step and evidence r(x_0), section 2.5: what `posterior` is made of ---


def start(schedule: Schedule, p: Bernoulli, x_t: Array, t: Array) -> Bernoulli:
    """The law of x_0 given x_t that a reverse step p(x_{t-1} | x_t) is a mixture over; `step` undoes it.

    With l = logit p, and A - C < l < A + C the logits of the two posteriors of `denoised_reverse`,
    p = m sigmoid(A + C) + (1 - m) sigmoid(A - C) is solved for m:

        logit m = l + softplus(-(A + C)) - softplus(A - C) + log((1 - e^{A-C-l}) / (1 - e^{l-A-C})).

    Where so little of x_0 is left that float32 cannot tell (C < 1e-4), m = 1/2.

    Args:
      schedule: of T steps.
      p: the reverse step. Logits outside those of the posteriors are taken for the nearest.
      x_t: [B, ...].
      t: [B] in 1..T. At t = 1 it is p itself.
    """
    strength = _marginal_strength(schedule, t - 1, x_t)
    certain, lost = jnp.isinf(strength), strength < 1e-4
    # Where C is infinite or too small, the formula is not used; it must stay finite.
    c = jnp.where(certain | lost, 1.0, strength)
    middle = _step_strength(schedule, t, x_t) * signs(x_t)
    inside = jnp.clip(p.logits - middle, -c * (1 - 1e-5), c * (1 - 1e-5))
    logits = inside + middle
    log_odds = (
        logits
        + softplus(-(middle + c))
        - softplus(middle - c)
        + jnp.log(-jnp.expm1(-c - inside))
        - jnp.log(-jnp.expm1(inside - c))
    )
    return Bernoulli(jnp.where(certain, p.logits, jnp.where(lost, 0.0, log_odds)))


def step(schedule: Schedule, start: Bernoulli, x_t: Array, t: Array) -> Bernoulli:
    """The reverse step that a law of x_0 given x_t makes: `denoised_reverse`.

    Args:
      schedule: of T steps.
      start: law of x_0 given x_t.
      x_t: [B, ...].
      t: [B] in 1..T.
    """
    return denoised_reverse(schedule, x_t, t, start.logits)


def diffused(schedule: Schedule, r: Bernoulli, t: Array) -> Bernoulli:
    """Evidence about x_0 as evidence about x_t: sum over x_0 of r(x_0) q(x_t | x_0).

    Args:
      schedule: of T steps.
      r: evidence about x_0, [B, ...].
      t: [B] in 0..T.
    """
    alpha_bar = at(schedule.alpha_bar, t, r.logits)
    unlikely = jax.nn.sigmoid(-jnp.abs(r.logits)) * alpha_bar + at(schedule.sigma2, t, r.logits) / 2
    size = jnp.where(unlikely > 0, jnp.log1p(-unlikely) - jnp.log(jnp.where(unlikely > 0, unlikely, 1.0)), jnp.inf)
    return Bernoulli(jnp.sign(r.logits) * size)


def renoised(schedule: Schedule, r: Bernoulli, p: Bernoulli, t: Array) -> Bernoulli:
    """A law p of x_t, with what was observed put in its place, diffused to the noise level of t.

    A bit seen through flips is a diffused x_0; more flips make of it a draw of q(x_t | x_0), as long
    as 1 - alpha_bar_t is at least twice the rate of the first ones. Below that, p is left alone.

    Args:
      schedule: of T steps.
      r: evidence about x_0, broadcasting to [B, ...].
      p: law of x_t, [B, ...].
      t: [B] in 0..T.
    """
    # sigma2 of the observation is twice its rate of flips; the extra flips make up the difference.
    flips = jax.nn.sigmoid(-jnp.abs(r.logits))
    sigma2 = at(schedule.sigma2, t, p.logits)
    replaced = (r.logits != 0) & (sigma2 >= 2 * flips)
    # alpha_bar_t / (1 - 2 f) of the observation survives; f < 1/2 where anything was observed.
    fewer = jnp.where(replaced, 1 - 2 * flips, 1.0)
    half = (sigma2 - 2 * flips) / (2 * fewer)
    certain = half <= 0
    safe = jnp.where(replaced & ~certain, half, 0.5)
    size = jnp.where(certain, jnp.inf, jnp.log1p(-safe) - jnp.log(safe))
    return Bernoulli(jnp.where(replaced, jnp.sign(r.logits) * size, p.logits))


def null_log_prob(x_0: Array) -> Array:
    """log-probability of the null model, independent bits at the batch's own mean rate, [B] nats."""
    x_0 = data(x_0)
    rate = jnp.mean(x_0)
    return sum_event(jax.scipy.special.xlogy(x_0, rate) + jax.scipy.special.xlog1py(1 - x_0, -rate))

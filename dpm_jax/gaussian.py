"""Gaussian diffusion: the paper's Table App.1, left column, in the order of the derivation.

    q(x_t | x_{t-1})      = N(sqrt(1 - beta_t) x_{t-1},  beta_t I)                 forward
    q(x_t | x_0)          = N(sqrt(alpha_bar_t) x_0,  (1 - alpha_bar_t) I)         marginal, q_sample
    q(x_{t-1} | x_t, x_0) = N(b_t x_0 + a_t x_t,  v_t I)                           q_posterior
    p(x_{t-1} | x_t)      = N(f_mu(x_t, t),  f_Sigma(x_t, t))                      mixed; `predictions`
    pi(x)                 = N(0, I)                                                prior

With r = nu_{t-1} / nu_t, the fall of the noise-to-signal ratio over the step, and
sigma2_t = 1 - alpha_bar_t, Bayes' rule gives

    b_t = sqrt(alpha_bar_{t-1}) (1 - r)
    a_t = sqrt(r) sqrt(sigma2_{t-1} / sigma2_t)
    v_t = sigma2_{t-1} (1 - r),

which hold at t = 1 too (r = 0: the posterior is the point x_0) and at nu_T = inf. Fine steps hardly move x_t: the
means are kept as x_t + ((a_t - 1) x_t + b_t x_0), a `Sum`, so that the posterior and a model's step differ by
b_t (x_0 - its guess of x_0) and not by what float32 rounds x_t to.

Shapes: x is [B, ...]; t is int32 [B], in 1..T (0..T for `marginal`). Sums are over
everything but the batch, in nats. All is float32. The laws themselves are in `normal`, and
here, too. `binomial` has the same verbs.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from dpm_jax.normal import (
    FullNormal,
    Law,
    Normal,
    Sum,
    as_full,
    bin_log_prob,
    entropy,
    kl,
    known,
    log_overlap,
    log_prob,
    mean,
    mean_less,
    noise,
    place,
    point,
    product,
    sample,
    slope,
    tilted,
    variance,
    where,
)
from dpm_jax.schedules import Schedule
from dpm_jax.shapes import as_float32, at
from dpm_jax.small_matrices import cholesky, gram
from dpm_jax.types import reverse_step

__all__ = [
    "FullNormal",
    "Normal",
    "as_full",
    "bin_log_prob",
    "data",
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
    "mean_less",
    "mixed",
    "mixed_full",
    "noise",
    "null_log_prob",
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
      ValueError: if x_0 holds no real numbers.
    """
    return as_float32(x_0, "x_0")


# --- The forward trajectory, section 2.1 ---


def forward(schedule: Schedule, x_prev: Array, t: Array) -> Normal:
    """One forward step, q(x_t | x_{t-1}) (equation 2, Table App.1).

    Args:
      schedule: of T steps.
      x_prev: [B, ...] x_{t-1}.
      t: [B] in 1..T.
    """
    x_prev = as_float32(x_prev, "x_prev")
    beta = at(schedule.beta, t, x_prev)
    keep = jnp.sqrt(1 - beta)
    # Fine steps begin at x_{t-1}.
    fine = keep > 0.5
    location = Sum(jnp.where(fine, x_prev, 0.0), jnp.where(fine, -beta / (1 + keep), keep) * x_prev)
    return Normal(location, jnp.broadcast_to(beta, x_prev.shape))


def marginal(schedule: Schedule, x_0: Array, t: Array) -> Normal:
    """q(x_t | x_0): t forward steps at once. At t = 0 it is the point x_0.

    Args:
      schedule: of T steps.
      x_0: [B, ...].
      t: [B] in 0..T.
    """
    x_0 = as_float32(x_0, "x_0")
    mean = jnp.sqrt(at(schedule.alpha_bar, t, x_0)) * x_0
    return Normal(mean, jnp.broadcast_to(at(schedule.sigma2, t, x_0), x_0.shape))


def q_sample(key: Array, schedule: Schedule, x_0: Array, t: Array) -> Array:
    """x_t ~ q(x_t | x_0), reparameterised: differentiable in the schedule and in x_0.

    Args:
      key: the noise eps depends on it alone ("frozen noise", section 2.4.1).
      schedule: of T steps.
      x_0: [B, ...].
      t: [B] in 0..T.

    Returns:
      [B, ...] x_t.
    """
    return sample(key, marginal(schedule, x_0, t))


def _posterior_variance(schedule: Schedule, t: Array, like: Array) -> Array:
    """v_t of the module's docstring, broadcasting against `like`."""
    return at(schedule.sigma2, t - 1, like) * -jnp.expm1(-at(schedule.log_nsr_step, t, like))


def _posterior_weight(schedule: Schedule, t: Array, like: Array) -> Array:
    """b_t of the module's docstring, broadcasting against `like`."""
    return jnp.sqrt(at(schedule.alpha_bar, t - 1, like)) * -jnp.expm1(-at(schedule.log_nsr_step, t, like))


def _posterior_mean(schedule: Schedule, x_0: Array, x_t: Array, t: Array) -> Sum:
    """b_t x_0 + a_t x_t."""
    step, weight = at(schedule.log_nsr_step, t, x_t), _posterior_weight(schedule, t, x_t)
    sigma2_prev = at(schedule.sigma2, t - 1, x_t)
    keep = jnp.exp(-0.5 * step) * jnp.sqrt(sigma2_prev / at(schedule.sigma2, t, x_t))
    # a_t = r / sqrt(1 - beta_t), so that a_t + b_t - 1 is this; where a_t is small, beta_t may be 1.
    fine = keep > 0.5
    log_kept = jnp.log1p(-jnp.where(fine, at(schedule.beta, t, x_t), 0.0))
    lost = sigma2_prev / (1 + jnp.sqrt(at(schedule.alpha_bar, t - 1, x_t)))
    change = jnp.exp(-jnp.where(fine, step, 0.0)) * jnp.expm1(-0.5 * log_kept) + jnp.expm1(-step) * lost
    # Near the data x_0 - x_t is exact, and small. b_t x_0 is not small, and its rounding would be.
    moved = change * x_t + weight * (x_0 - x_t)
    return Sum(jnp.where(fine, x_t, 0.0), jnp.where(fine, moved, keep * x_t + weight * x_0))


def q_posterior(schedule: Schedule, x_0: Array, x_t: Array, t: Array) -> Normal:
    """Return q(x_{t-1} | x_t, x_0), the forward chain run backwards from a known start (appendix B.3).

    Args:
      schedule: of T steps.
      x_0: [B, ...].
      x_t: [B, ...].
      t: [B] in 1..T. At t = 1 the variance is zero.
    """
    x_0, x_t = as_float32(x_0, "x_0"), as_float32(x_t, "x_t")
    variance = jnp.broadcast_to(_posterior_variance(schedule, t, x_t), x_t.shape)
    return Normal(_posterior_mean(schedule, x_0, x_t, t), variance)


def prior(x: Array) -> Normal:
    """Return pi, the law of x_T in the model: standard normal, of x's shape."""
    return Normal(jnp.zeros(x.shape, jnp.float32), jnp.ones(x.shape, jnp.float32))


# --- The reverse trajectory, section 2.2; what networks say of it is in `predictions` ---


def mixed(schedule: Schedule, x_0: Array, variance: Array, x_t: Array, t: Array) -> Normal:
    """Integral of q(x_{t-1} | x_t, x_0) over a normal law of x_0 given x_t, coordinates independent.

        N(b_t E[x_0] + a_t x_t,  v_t + b_t^2 Var[x_0])

    Args:
      schedule: of T steps.
      x_0: [B, ...] its mean.
      variance: broadcasting to [B, ...], its variance.
      x_t: [B, ...].
      t: [B] in 1..T.
    """
    total = _posterior_variance(schedule, t, x_t) + _posterior_weight(schedule, t, x_t) ** 2 * variance
    return Normal(_posterior_mean(schedule, x_0, x_t, t), jnp.broadcast_to(total, x_t.shape))


def mixed_full(schedule: Schedule, x_0: Array, covariance: Array, x_t: Array, t: Array) -> FullNormal:
    """`mixed` for a law of x_0 given x_t with full covariance.

    Args:
      schedule: of T steps.
      x_0: [B, d] its mean.
      covariance: [B, d, d], positive semi-definite; definite at t = 1, where v_t is zero.
      x_t: [B, d].
      t: [B] in 1..T.
    """
    known = _posterior_variance(schedule, t, x_t)[..., None] * jnp.eye(x_t.shape[-1], dtype=jnp.float32)[None]
    total = (_posterior_weight(schedule, t, x_t) ** 2)[..., None] * covariance + known
    return FullNormal(_posterior_mean(schedule, x_0, x_t, t), cholesky(total))


def forward_edge(
    schedule: Schedule, reverse: Callable[[Array, Array], Normal | FullNormal]
) -> Callable[[Array, Array], Normal | FullNormal]:
    """A reverse function whose last step p(x_0 | x_1) is the forward kernel (appendix B.2).

    Args:
      schedule: of T steps.
      reverse: (x_t, t) -> distribution; its answer at t = 1 is replaced.
    """

    def with_edge(x_t: Array, t: Array) -> Normal | FullNormal:
        p: Normal | FullNormal = reverse_step(reverse, x_t, t)
        edge = forward(schedule, x_t, jnp.ones_like(t))
        if isinstance(p, FullNormal):
            return where(t == 1, as_full(edge), p)
        return where(t == 1, edge, p)

    return with_edge


# --- A reverse step and evidence r(x_0), section 2.5: what `posterior` is made of ---


def start(schedule: Schedule, p: Normal | FullNormal, x_t: Array, t: Array) -> Normal | FullNormal:
    """The law of x_0 given x_t that a reverse step p(x_{t-1} | x_t) is a mixture over; `step` undoes it.

    Args:
      schedule: of T steps.
      p: the reverse step. Variance below the posterior's v_t is taken for v_t: x_0 is then certain.
      x_t: [B, ...].
      t: [B] in 1..T. At t = 1 it is p itself.
    """
    b, known = _posterior_weight(schedule, t, x_t), _posterior_variance(schedule, t, x_t)
    of_x_t = _posterior_mean(schedule, jnp.zeros_like(x_t), x_t, t)
    mean = (mean_less(p, of_x_t.origin) - of_x_t.offset) / b
    if isinstance(p, FullNormal):
        excess = gram(p.scale_tril) - known[..., None] * jnp.eye(x_t.shape[-1], dtype=jnp.float32)[None]
        return FullNormal(mean, cholesky(excess / (b**2)[..., None]))
    return Normal(mean, jnp.maximum(p.variance - known, 0.0) / b**2)


def step(schedule: Schedule, start: Normal | FullNormal, x_t: Array, t: Array) -> Normal | FullNormal:
    """The reverse step that a law of x_0 given x_t makes: `mixed`, or `mixed_full`.

    Args:
      schedule: of T steps.
      start: law of x_0 given x_t.
      x_t: [B, ...].
      t: [B] in 1..T.
    """
    if isinstance(start, FullNormal):
        return mixed_full(schedule, start.mean, gram(start.scale_tril), x_t, t)
    return mixed(schedule, start.mean, start.variance, x_t, t)


def diffused(schedule: Schedule, r: Normal, t: Array) -> Normal:
    """Evidence about x_0 as evidence about x_t: integral of r(x_0) q(x_0 | x_t), all x_0 alike beforehand.

    Args:
      schedule: of T steps.
      r: evidence about x_0, [B, ...].
      t: [B] in 0..T.
    """
    alpha_bar = at(schedule.alpha_bar, t, r.mean)
    variance = at(schedule.sigma2, t, r.mean) + alpha_bar * r.variance
    return Normal(jnp.sqrt(alpha_bar) * r.mean, variance)


def renoised(schedule: Schedule, r: Normal, p: Law, t: Array) -> Law:
    """A law p of x_t, with what was observed put in its place, diffused to the noise level of t.

    An observation of noise s^2 is a diffused x_0 of noise-to-signal ratio s^2; more noise makes
    of it a draw of q(x_t | x_0), as long as nu_t >= s^2. Below that, p is left alone.

    Args:
      schedule: of T steps.
      r: evidence about x_0, broadcasting to [B, ...].
      p: law of x_t, [B, ...].
      t: [B] in 0..T.
    """
    like = p.mean
    alpha_bar, seen = at(schedule.alpha_bar, t, like), jnp.isfinite(r.variance)
    noise = jnp.where(seen, r.variance, 0.0)
    variance = at(schedule.sigma2, t, like) - alpha_bar * noise
    replaced = seen & (variance >= 0)
    place = jnp.sqrt(alpha_bar) * jnp.where(seen, r.mean, 0.0)
    if isinstance(p, FullNormal):
        # Rows and columns of what is replaced stand for themselves alone.
        kept = ~replaced[..., :, None] & ~replaced[..., None, :]
        own = (
            jnp.where(replaced, jnp.maximum(variance, 0.0), 0.0)[..., None]
            * jnp.eye(like.shape[-1], dtype=jnp.float32)[None]
        )
        covariance = jnp.where(kept, gram(p.scale_tril), 0.0) + own
        return FullNormal(jnp.where(replaced, place, p.mean), cholesky(covariance))
    return Normal(jnp.where(replaced, place, p.mean), jnp.where(replaced, variance, p.variance))


def null_log_prob(x_0: Array) -> Array:
    """log-density of the paper's null model, the standard normal, in nats, [B] (section 3).

    On data of zero mean and unit variance its mean is -2.047 bits a dimension.
    """
    return log_prob(prior(x_0), data(x_0))

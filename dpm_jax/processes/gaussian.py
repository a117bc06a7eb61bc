"""Gaussian diffusion: the paper's Table App.1, left column, in the order of the derivation.

    q(x_t | x_{t-1})      = N(sqrt(1 - beta_t) x_{t-1},  beta_t I)                 forward
    q(x_t | x_0)          = N(sqrt(alpha_bar_t) x_0,  (1 - alpha_bar_t) I)         marginal
    q(x_{t-1} | x_t, x_0) = N(b_t x_0 + a_t x_t,  v_t I)                           posterior
    p(x_{t-1} | x_t)      = N(b_t m + a_t x_t,  v_t I + b_t^2 S)                   posterior, of a law N(m, S) of x_0
    pi(x)                 = N(0, I)                                                prior

With r = nu_{t-1} / nu_t, the fall of the noise-to-signal ratio over the step, and
sigma2_t = 1 - alpha_bar_t, Bayes' rule gives

    b_t = sqrt(alpha_bar_{t-1}) (1 - r)
    a_t = sqrt(r) sqrt(sigma2_{t-1} / sigma2_t)
    v_t = sigma2_{t-1} (1 - r),

which hold at t = 1 too (r = 0: the posterior is the point x_0) and at nu_T = inf. Fine steps hardly move x_t: the
means are kept as x_t + ((a_t - 1) x_t + b_t x_0), in two terms, so that the posterior and a model's step differ by
b_t (x_0 - its guess of x_0) and not by what float32 rounds x_t to.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from dpm_jax.distributions import FullNormal, Normal
from dpm_jax.distributions.base import is_law
from dpm_jax.numerics.shapes import as_float32, at, level_at, slope_at, sum_event
from dpm_jax.numerics.small_matrices import cholesky, diagonal, gram
from dpm_jax.schedules import Schedule

__all__ = ["Gaussian"]

# Steps that keep more than this share of x hardly move it: means are kept as x and a change.
_FINE = 0.5


@partial(jax.tree_util.register_dataclass, data_fields=("schedule",), meta_fields=())
@dataclasses.dataclass(frozen=True)
class Gaussian:
    """The Gaussian process of the module's docstring. x is [B, ...], t int32 [B]; all is float32.

    Attributes:
      schedule: of T steps.
    """

    schedule: Schedule

    @property
    def num_timesteps(self) -> int:
        """T."""
        return self.schedule.num_timesteps

    def prior(self, shape: tuple[int, ...], *, event_ndim: int | None = None) -> Normal:
        """Return pi, the law of x_T in the model: standard normal, of this shape, the batch axis first."""
        return Normal(jnp.zeros(shape, jnp.float32), jnp.ones(shape, jnp.float32), event_ndim=event_ndim)

    # --- The forward trajectory, section 2.1 ---

    def forward(self, x_prev: Array, t: Array) -> Normal:
        """Return one forward step, q(x_t | x_{t-1}) (equation 2, Table App.1).

        Args:
          x_prev: [B, ...] x_{t-1}.
          t: [B] in 1..T.
        """
        x_prev = as_float32(x_prev, "x_prev")
        beta = at(self.schedule.beta, t, x_prev)
        keep = jnp.sqrt(1 - beta)
        fine = keep > _FINE
        offset = jnp.where(fine, -beta / (1 + keep), keep) * x_prev
        return Normal(jnp.where(fine, x_prev, 0.0), beta, offset=offset, event_ndim=x_prev.ndim - jnp.ndim(t))

    def marginal(self, x_0: Array, t: Array) -> Normal:
        """Return q(x_t | x_0), t forward steps at once; at t = 0 the point x_0.

        Its samples are reparameterised: differentiable in the schedule and in x_0, their noise depending on the key
        alone ("frozen noise", section 2.4.1).

        Args:
          x_0: [B, ...].
          t: [B] in 0..T; real numbers for times between two steps, see `bound.limit`.
        """
        x_0 = as_float32(x_0, "x_0")
        mean = jnp.sqrt(level_at(self.schedule.alpha_bar, t, x_0)) * x_0
        return Normal(mean, level_at(self.schedule.sigma2, t, x_0), event_ndim=x_0.ndim - jnp.ndim(t))

    def posterior(self, x_0: Any, x_t: Array, t: Array) -> Normal | FullNormal:
        """Return q(x_{t-1} | x_t, x_0), the forward chain run backwards from a known start (appendix B.3).

        Args:
          x_0: [B, ...]; or its law given x_t, over which the posteriors are mixed: exact for a `Normal` and a
            `FullNormal`, matching mean and variance for any other law.
          x_t: [B, ...].
          t: [B] in 1..T. At t = 1 the variance is that of x_0.
        """
        x_t = as_float32(x_t, "x_t")
        known, weight = self._posterior_variance(x_t, t), self._posterior_weight(x_t, t)
        if not is_law(x_0):
            return self._step(as_float32(x_0, "x_0"), 0.0, known, x_t, t)
        origin, offset = (x_0.origin, x_0.offset) if isinstance(x_0, Normal | FullNormal) else (x_0.mean, 0.0)
        if not isinstance(x_0, FullNormal):
            return self._step(origin, offset, known + weight**2 * x_0.variance, x_t, t)
        mean = self._step(origin, offset, 1.0, x_t, t)
        total = (weight**2)[..., None] * gram(x_0.scale_tril) + diagonal(jnp.broadcast_to(known, x_t.shape))
        return FullNormal(mean.origin, cholesky(total), offset=mean.offset)

    def kl_rate(self, x_0: Array, p: Normal | FullNormal, x_t: Array, t: Array) -> Array:
        """Return the KL of a reverse step by its length in t, as steps become infinitely short (see `bound.limit`).

        Half of the fall of SNR = alpha_bar_t / sigma2_t, times |x_0 - E_p[x_0 | x_t]|^2 (Kingma et al. 2021, VDM).

        Args:
          x_0: [B, ...].
          p: p(x_0 | x_t), of which the mean is used.
          x_t: [B, ...]; the rate depends on it through p alone.
          t: [B] real numbers in 1..T.

        Returns:
          [B] nats.
        """
        # SNR = 1 / sigma2 - 1: its slope by that of sigma2, whose differences do not cancel.
        sigma2 = self.schedule.sigma2
        return 0.5 * slope_at(sigma2, t) / level_at(sigma2, t, t) ** 2 * sum_event(p.mean_less(x_0) ** 2)

    def _posterior_variance(self, like: Array, t: Array) -> Array:
        """v_t of the module's docstring, broadcasting against `like`."""
        return at(self.schedule.sigma2, t - 1, like) * -jnp.expm1(-at(self.schedule.log_nsr_step, t, like))

    def _posterior_weight(self, like: Array, t: Array) -> Array:
        """b_t of the module's docstring, broadcasting against `like`."""
        rest = -jnp.expm1(-at(self.schedule.log_nsr_step, t, like))
        return jnp.sqrt(at(self.schedule.alpha_bar, t - 1, like)) * rest

    def _step(self, origin: Array, offset: Array | float, variance: Array | float, x_t: Array, t: Array) -> Normal:
        """N(b_t (origin + offset) + a_t x_t, variance)."""
        schedule = self.schedule
        step, weight = at(schedule.log_nsr_step, t, x_t), self._posterior_weight(x_t, t)
        # Two roots, for that of a ratio has no gradient where sigma2_0 = 0 and the step is infinite.
        left = jnp.sqrt(at(schedule.sigma2, t - 1, x_t)) / jnp.sqrt(at(schedule.sigma2, t, x_t))
        keep = jnp.exp(-0.5 * step) * left
        # a_t = r / sqrt(1 - beta_t), so that a_t + b_t - 1 is this; where a_t is small, beta_t may be 1.
        fine = keep > _FINE
        log_kept = jnp.log1p(-jnp.where(fine, at(schedule.beta, t, x_t), 0.0))
        ratio = jnp.exp(-jnp.where(fine, step, 0.0))
        lost = at(schedule.sigma2, t - 1, x_t) / (1 + jnp.sqrt(at(schedule.alpha_bar, t - 1, x_t)))
        change = ratio * jnp.expm1(-0.5 * log_kept) + jnp.expm1(-step) * lost
        # Near the data x_0 - x_t is exact, and small. b_t x_0 is not small, and its rounding would be.
        moved = change * x_t + weight * ((origin - x_t) + offset)
        # Coarse steps begin at x_0: at t = 1 its two terms are those of the step.
        first = jnp.where(fine, x_t, weight * origin)
        second = jnp.where(fine, moved, keep * x_t + weight * offset)
        return Normal(first, variance, offset=second, event_ndim=x_t.ndim - jnp.ndim(t))

    # --- Evidence r(x_0), section 2.5: for `guidance` ---

    def diffuse(self, r: Normal, t: Array) -> Normal:
        """Return evidence about x_0 as evidence about x_t: integral of r(x_0) q(x_0 | x_t), all x_0 equally likely.

        Args:
          r: evidence about x_0, [B, ...].
          t: [B] in 0..T.
        """
        alpha_bar = at(self.schedule.alpha_bar, t, r.mean)
        variance = at(self.schedule.sigma2, t, r.mean) + alpha_bar * r.variance
        return Normal(jnp.sqrt(alpha_bar) * r.mean, variance, event_ndim=r.event_ndim)

    def renoise(self, r: Normal, p: Any, t: Array) -> Any:
        """Return a law p of x_t, with what was observed put in its place, diffused to the noise level of t.

        An observation of noise s^2 is a diffused x_0 of noise-to-signal ratio s^2; more noise makes
        of it a draw of q(x_t | x_0), as long as nu_t >= s^2. Below that, p is left alone.

        Args:
          r: evidence about x_0, broadcasting to [B, ...].
          p: `Normal` or `FullNormal`, the law of x_t, [B, ...].
          t: [B] in 0..T.
        """
        mean = p.mean
        alpha_bar, seen = at(self.schedule.alpha_bar, t, mean), jnp.isfinite(r.variance)
        noise = jnp.where(seen, r.variance, 0.0)
        variance = at(self.schedule.sigma2, t, mean) - alpha_bar * noise
        replaced = seen & (variance >= 0)
        place = jnp.where(replaced, jnp.sqrt(alpha_bar) * jnp.where(seen, r.mean, 0.0), mean)
        if isinstance(p, FullNormal):
            # Rows and columns of what is replaced stand for themselves alone.
            kept = ~replaced[..., :, None] & ~replaced[..., None, :]
            own = jnp.where(replaced, jnp.maximum(variance, 0.0), 0.0)
            return FullNormal.of_covariance(place, jnp.where(kept, p.covariance, 0.0) + diagonal(own))
        return Normal(place, jnp.where(replaced, variance, p.variance), event_ndim=p.event_ndim)

    def null_log_prob(self, x_0: Array) -> Array:
        """Return the log-density of the paper's null model, the standard normal, in nats, [B] (section 3).

        On data of zero mean and unit variance its mean is -2.047 bits a dimension.
        """
        return self.prior(jnp.shape(x_0)).log_prob(x_0)

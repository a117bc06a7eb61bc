"""Binomial diffusion of bits: the paper's Table App.1, right column, in the order of the derivation.

    q(x_t = 1 | x_{t-1})      = x_{t-1} (1 - beta_t) + beta_t / 2                    forward
    q(x_t = 1 | x_0)          = x_0 alpha_bar_t + (1 - alpha_bar_t) / 2              marginal
    q(x_{t-1} | x_t, x_0)     : logit = 2 atanh(1 - beta_t) s_t
                                      + 2 atanh(alpha_bar_{t-1}) s_0                 posterior
    p(x_{t-1} | x_t)          = sum over x_0 of q(x_{t-1} | x_t, x_0) m(x_0)         posterior, of a law m of x_0
    pi(x = 1)                 = 1/2                                                  prior

with s = 2 x - 1. A step keeps a bit with probability 1 - beta_t and otherwise replaces
it by a fair coin, so the two coefficients of the posterior's logit are the log-odds that
a bit is unchanged over one step and over the first t - 1.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.nn import log_sigmoid

from dpm_jax.distributions import Bernoulli
from dpm_jax.distributions.base import is_law
from dpm_jax.distributions.bernoulli import signs
from dpm_jax.numerics.shapes import as_float32, at, concrete, level_at, slope_at, sum_event
from dpm_jax.numerics.small_differences import expm1_minus_x
from dpm_jax.schedules import Schedule

__all__ = ["Binomial"]


@partial(jax.tree_util.register_dataclass, data_fields=("schedule",), meta_fields=())
@dataclasses.dataclass(frozen=True)
class Binomial:
    """The binomial process of the module's docstring. x is [B, ...] of 0 and 1, t int32 [B].

    Attributes:
      schedule: of T steps.
    """

    schedule: Schedule

    @property
    def num_timesteps(self) -> int:
        """T."""
        return self.schedule.num_timesteps

    def prior(self, shape: tuple[int, ...], *, event_ndim: int | None = None) -> Bernoulli:
        """Return pi, the law of x_T in the model: fair coins, of this shape, the batch axis first."""
        return Bernoulli(jnp.zeros(shape, jnp.float32), event_ndim=event_ndim)

    # --- The forward trajectory, section 2.1 ---

    def forward(self, x_prev: Array, t: Array) -> Bernoulli:
        """Return one forward step, q(x_t | x_{t-1}) (equation 2, Table App.1).

        Args:
          x_prev: [B, ...] x_{t-1}.
          t: [B] in 1..T.
        """
        x_prev = jnp.asarray(x_prev)
        return Bernoulli(self._step_strength(x_prev, t) * signs(x_prev), event_ndim=x_prev.ndim - jnp.ndim(t))

    def marginal(self, x_0: Array, t: Array) -> Bernoulli:
        """Return q(x_t | x_0), t forward steps at once; at t = 0 the point x_0.

        Args:
          x_0: [B, ...] of 0 and 1, of any type.
          t: [B] in 0..T; real numbers for times between two steps, see `bound.limit`.

        Raises:
          ValueError: if x_0 is known and holds anything but 0 and 1. In a traced program, where it is not known yet,
            the law is NaN.
        """
        x_0 = _bits(x_0)
        return Bernoulli(self._marginal_strength(x_0, t) * signs(x_0), event_ndim=x_0.ndim - jnp.ndim(t))

    def posterior(self, x_0: Any, x_t: Array, t: Array) -> Bernoulli:
        """Return q(x_{t-1} | x_t, x_0), the forward chain run backwards from a known start (appendix B.3).

        Over a law of x_0 given x_t, bit by bit, the exact posteriors, of logits A + C and A - C, are mixed. With
        l the law's logit, A = 2 atanh(1 - beta_t), C = 2 atanh(alpha_bar_{t-1}) and S the sigmoid, the mixture's
        logit is

            s_t log((S(A + C) u + S(A - C)) / (S(-A - C) u + S(C - A))),   u = e^{s_t l},

        sums of positive numbers, which stay so where C is infinite: at t = 1 it is l itself.

        Args:
          x_0: [B, ...]; or its law given x_t, of which the means are used.
          x_t: [B, ...].
          t: [B] in 1..T. At t = 1 x_0 is known, and the logits of a posterior are infinite.
        """
        x_t = jnp.asarray(x_t)
        sign, event_ndim = signs(x_t), x_t.ndim - jnp.ndim(t)
        step, start = self._step_strength(x_t, t), self._marginal_strength(x_t, t - 1)
        if not is_law(x_0):
            return Bernoulli(step * sign + start * signs(x_0), event_ndim=event_ndim)
        sigmoid = jax.nn.sigmoid
        outputs = _logits(x_0)
        odds = jnp.exp(jnp.where(sign > 0, 1.0, -1.0) * outputs)
        stays = sigmoid(step + start) * odds + sigmoid(step - start)
        flips = sigmoid(-step - start) * odds + sigmoid(start - step)
        return Bernoulli(sign * jnp.log(stays / flips), event_ndim=event_ndim)

    def kl_rate(self, x_0: Array, p: Any, x_t: Array, t: Array) -> Array:
        """Return the KL of a reverse step by its length in t, as steps become infinitely short (see `bound.limit`).

        In continuous time a bit is replaced by a coin at the rate b = -d log alpha_bar_t / dt. Run backwards from a
        known start, x_t flips at the rate (b / 2) e^{-C s_t s_0}, C = 2 atanh(alpha_bar_t), and in the model at the
        mean of that over p. The KL of two jump processes of rates q and p is q log(q / p) - q + p in unit time.

        Args:
          x_0: [B, ...] of 0 and 1.
          p: p(x_0 | x_t), of which the means are used.
          x_t: [B, ...] of 0 and 1.
          t: [B] real numbers in 1..T.

        Returns:
          [B] nats.
        """
        schedule = self.schedule
        sign, same = signs(x_t), signs(x_t) * signs(x_0)
        strength = self._marginal_strength(x_t, t)
        kept = _logits(p) * sign
        log_rate = -strength * same
        log_ratio = jnp.logaddexp(log_sigmoid(kept) - strength, log_sigmoid(-kept) + strength) - log_rate
        small = jnp.abs(log_ratio) < 0.5
        near = expm1_minus_x(jnp.where(small, log_ratio, 0.0))
        far = jnp.expm1(jnp.where(small, 0.0, log_ratio)) - log_ratio
        left = level_at(schedule.alpha_bar, t, t)
        # Where nothing is left of x_0 the rates are the same.
        renewed = jnp.where(left > 0, slope_at(schedule.sigma2, t) / jnp.where(left > 0, left, 1.0), 0.0)
        return 0.5 * renewed * sum_event(jnp.exp(log_rate) * jnp.where(small, near, far))

    def _step_strength(self, like: Array, t: Array) -> Array:
        """2 atanh(1 - beta_t): log-odds that a bit is unchanged over step t. 0 where beta_t = 1."""
        half = 0.5 * at(self.schedule.beta, t, like)
        return jnp.log1p(-half) - jnp.log(half)

    def _marginal_strength(self, like: Array, t: Array) -> Array:
        """2 atanh(alpha_bar_t) = log(1 + 2 / nu_t): log-odds that x_t = x_0. +inf at t = 0."""
        if jnp.issubdtype(jnp.result_type(t), jnp.floating):
            return jnp.log1p(2 * level_at(self.schedule.alpha_bar, t, like) / level_at(self.schedule.sigma2, t, like))
        return jax.nn.softplus(jnp.log(2.0) - at(self.schedule.log_nsr, t, like))

    # --- Evidence r(x_0), section 2.5: for `guidance` ---

    def diffuse(self, r: Bernoulli, t: Array) -> Bernoulli:
        """Return evidence about x_0 as evidence about x_t: sum over x_0 of r(x_0) q(x_t | x_0).

        Args:
          r: evidence about x_0, [B, ...].
          t: [B] in 0..T.
        """
        alpha_bar, sigma2 = (at(v, t, r.logits) for v in (self.schedule.alpha_bar, self.schedule.sigma2))
        unlikely = jax.nn.sigmoid(-jnp.abs(r.logits)) * alpha_bar + sigma2 / 2
        size = jnp.where(unlikely > 0, jnp.log1p(-unlikely) - jnp.log(jnp.where(unlikely > 0, unlikely, 1.0)), jnp.inf)
        return Bernoulli(jnp.sign(r.logits) * size, event_ndim=r.event_ndim)

    def renoise(self, r: Bernoulli, p: Bernoulli, t: Array) -> Bernoulli:
        """Return a law p of x_t, with what was observed put in its place, diffused to the noise level of t.

        A bit seen through flips is a diffused x_0; more flips make of it a draw of q(x_t | x_0), as long
        as 1 - alpha_bar_t is at least twice the rate of the first ones. Below that, p is left alone.

        Args:
          r: evidence about x_0, broadcasting to [B, ...].
          p: law of x_t, [B, ...].
          t: [B] in 0..T.
        """
        # sigma2 of the observation is twice its rate of flips; the extra flips make up the difference.
        flips = jax.nn.sigmoid(-jnp.abs(r.logits))
        sigma2 = at(self.schedule.sigma2, t, p.logits)
        replaced = (r.logits != 0) & (sigma2 >= 2 * flips)
        # alpha_bar_t / (1 - 2 f) of the observation survives; f < 1/2 where anything was observed.
        fewer = jnp.where(replaced, 1 - 2 * flips, 1.0)
        half = (sigma2 - 2 * flips) / (2 * fewer)
        certain = half <= 0
        safe = jnp.where(replaced & ~certain, half, 0.5)
        size = jnp.where(certain, jnp.inf, jnp.log1p(-safe) - jnp.log(safe))
        return Bernoulli(jnp.where(replaced, jnp.sign(r.logits) * size, p.logits), event_ndim=p.event_ndim)

    def null_log_prob(self, x_0: Array) -> Array:
        """Return the log-probability of the null model, independent bits at the batch's mean rate, [B] nats."""
        x_0 = _bits(x_0)
        rate = jnp.mean(x_0)
        return sum_event(jax.scipy.special.xlogy(x_0, rate) + jax.scipy.special.xlog1py(1 - x_0, -rate))


def _logits(law: Any) -> Array:
    """Return the logits of a law of bits, or of the means of another, as far as float32 tells a difference.

    Beyond +-80 it does not, and inf - inf would be NaN.
    """
    return jnp.clip(law.logits if isinstance(law, Bernoulli) else jax.scipy.special.logit(law.mean), -80.0, 80.0)


def _bits(x_0: Any) -> Array:
    """Return bits as float32; refused if they are known and hold anything but 0 and 1."""
    bits = as_float32(x_0, "x_0")
    if concrete(x_0) and (wrong := (values := np.asarray(x_0))[(values != 0) & (values != 1)]).size:
        raise ValueError(f"x_0: bits must be 0 or 1, got {wrong[0]:g}")
    return bits

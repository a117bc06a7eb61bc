"""Denoising diffusion implicit models (Song et al. 2021): other chains with the same marginals, same network."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from dpm_jax import gaussian
from dpm_jax.normal import FullNormal, Normal
from dpm_jax.schedules import Schedule
from dpm_jax.shapes import at
from dpm_jax.types import Reverse

__all__ = ["ddim"]


def ddim(schedule: Schedule, reverse: Reverse, eta: float) -> Reverse:
    """The generalised reverse step of Song et al. 2021 (equations 12 and 16), Gaussian kernel.

        mean     = sqrt(alpha_bar_{t-1}) x_0 + sqrt(sigma2_{t-1} - eta^2 v_t) eps
        variance = eta^2 v_t,      x_0 = E[x_0 | x_t],   eps = (x_t - sqrt(alpha_bar_t) x_0) / sqrt(sigma2_t)

    with v_t the variance of q(x_{t-1} | x_t, x_0). eta = 1 is that posterior at the estimate of x_0; eta = 0 adds no
    noise: x_0 is a function of x_T, an integrator of the probability flow. Of the model's law of x_0 the
    mean alone is used. These are samplers: for eta < 1, KL(q(x_{t-1} | x_t, x_0) || p) is not finite or says
    nothing of the chain, and K is not defined by `bound`.

    In a chain of few steps (`respacing.respaced`) take the edge "decoder": the forward kernel's mean of x_0 given
    x_{tau_1} is no denoised estimate.

    Args:
      schedule: of T steps.
      reverse: (x_t, t) -> `Normal` or `FullNormal`.
      eta: in [0, 1].

    Returns:
      (x_t, t) -> `Normal`, of variance 0 where eta = 0, and at t = 1.

    Raises:
      ValueError: if eta is outside [0, 1]; and, when called, if `reverse` returns another law.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta: must lie in [0, 1], got {eta:g}")

    def implicit(x_t: Array, t: Array) -> Normal:
        p = reverse(x_t, t)
        if not isinstance(p, Normal | FullNormal):
            raise ValueError(f"reverse: DDIM is for normal steps, got a {type(p).__name__}")
        x_0 = gaussian.start(schedule, p, x_t, t).mean
        # With r = nu_{t-1} / nu_t, sigma2_{t-1} - eta^2 v_t = sigma2_{t-1} (1 - eta^2 (1 - r)), and the mean is
        #   sqrt(alpha_bar_{t-1}) (1 - sqrt(r (1 - eta^2 (1 - r)))) x_0
        #     + sqrt(sigma2_{t-1} / sigma2_t (1 - eta^2 (1 - r))) x_t,
        # in which nothing cancels, however fine the step.
        step = at(schedule.log_nsr_step, t, x_t)
        gain = -jnp.expm1(-step)
        log_kept = jnp.log1p(-(eta**2) * gain)
        sigma2_prev = at(schedule.sigma2, t - 1, x_t)
        of_x_0 = jnp.sqrt(at(schedule.alpha_bar, t - 1, x_t)) * -jnp.expm1(0.5 * (log_kept - step))
        of_x_t = jnp.exp(0.5 * log_kept) * jnp.sqrt(sigma2_prev) / jnp.sqrt(at(schedule.sigma2, t, x_t))
        mean = of_x_0 * x_0 + of_x_t * x_t
        return Normal(mean, jnp.broadcast_to(eta**2 * sigma2_prev * gain, x_t.shape))

    return implicit

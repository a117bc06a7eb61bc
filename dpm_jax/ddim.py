"""Denoising diffusion implicit models (Song et al. 2021): other chains with the same marginals, same network."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from dpm_jax import coloured
from dpm_jax.distributions import Normal
from dpm_jax.model import Model
from dpm_jax.numerics.shapes import at
from dpm_jax.processes import Gaussian

__all__ = ["ddim"]


def ddim(model: Model, eta: float) -> Model:
    """Return the model with the generalised reverse step of Song et al. 2021 (equations 12 and 16).

        mean     = sqrt(alpha_bar_{t-1}) x_0 + sqrt(sigma2_{t-1} - eta^2 v_t) eps
        variance = eta^2 v_t,      x_0 = E[x_0 | x_t],   eps = (x_t - sqrt(alpha_bar_t) x_0) / sqrt(sigma2_t)

    with v_t the variance of q(x_{t-1} | x_t, x_0). eta = 1 is that posterior at the estimate of x_0; eta = 0 adds no
    noise: x_0 is a function of x_T, an integrator of the probability flow. Only the mean of the
    model's law of x_0 is used. These are samplers: for eta < 1, KL(q(x_{t-1} | x_t, x_0) || p) is not finite or says
    nothing of the chain, and K is not defined by `bound`.

    In a chain of few steps (`respacing.respace`) take the edge "decoder": the forward kernel's mean of x_0 given
    x_{tau_1} is no denoised estimate.

    Args:
      model: a denoiser, and a Gaussian process or one with noise of a spectrum.
      eta: in [0, 1].

    Returns:
      `Model` of the same process. Its steps are `Normal`, of variance 0 where eta = 0, and at t = 1.

    Raises:
      ValueError: if eta is outside [0, 1], the process is not Gaussian, or the model has no denoiser.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta: must lie in [0, 1], got {eta:g}")
    if isinstance(model.process, coloured.Coloured):
        return coloured.in_colour(ddim(coloured.in_white(model), eta), model.process.spectrum)
    if not isinstance(model.process, Gaussian):
        raise ValueError(f"process: DDIM is for the Gaussian one, got a {type(model.process).__name__}")
    if model.denoise is None:
        raise ValueError("model: DDIM needs its denoiser, p(x_0 | x_t), and it is given by its reverse steps alone")
    schedule = model.process.schedule

    def implicit(x_t: Array, t: Array) -> Normal:
        x_0 = model.denoised(x_t, t).mean
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
        return Normal(mean, eta**2 * sigma2_prev * gain)

    return Model.from_steps(model.process, implicit)

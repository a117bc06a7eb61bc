"""What a network predicts, and the normal reverse step that it makes: every parameterisation of the Gaussian kernel.

x_t = sqrt(alpha_bar_t) x_0 + sigma_t eps, sigma_t^2 = 1 - alpha_bar_t, is one coordinate of the pair (x_0, eps)
after a rotation. The other is

    v = sqrt(alpha_bar_t) eps - sigma_t x_0                        (Salimans & Ho 2022, appendix D)

and where x_t is known, a guess of any of these is a guess of all:

    v             =  v
    x_0           =  sqrt(alpha_bar_t) x_t - sigma_t v
    epsilon       =  sigma_t x_t + sqrt(alpha_bar_t) v             the noise (Ho et al. 2020)
    residual      =  sqrt(alpha_bar_t) v                           epsilon, less its mean if x_0 were standard normal
    perturbation  = -sqrt(beta_t alpha_bar_{t-1}) / sigma_t  v     the paper's z_mu (appendix D.2.1):
                                                                   mean = sqrt(1 - beta_t) x_t + sqrt(beta_t) z_mu

From v nothing cancels. To v, a guess of x_0 is divided by sigma_t and one of epsilon by sqrt(alpha_bar_t), which
is how little x_t says of either at t = 1 and at t = T.

The mean of the reverse step is that of the exact posterior q(x_{t-1} | x_t, x_0) at the guess of x_0. Its variance is

    mixed         v_t + b_t^2 sigma_t^2 exp(c)                     x_0 is N(guess, sigma_t^2 exp(c)): never below v_t
    sigmoid       sigmoid(c + logit beta_t)                        the paper's (appendix D.2.1)
    interpolated  beta_t^s v_t^(1 - s), s = (1 + c) / 2            Nichol & Dhariwal 2021, equation 15
    small         v_t                                              fixed: best where x_0 is one point
    large         beta_t                                           fixed: best where x_0 is standard normal

c being outputs of the network. At t = 1, where v_t is zero, interpolated and small have beta_1 (the authors of DDPM
take v_2). Notation of `gaussian`; float32; x is [B, ..., k] and t int32 [B] in 1..T.
"""

from __future__ import annotations

from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dpm_jax import gaussian
from dpm_jax.gaussian import FullNormal, Normal
from dpm_jax.schedules import Schedule
from dpm_jax.shapes import at, concrete
from dpm_jax.small_matrices import matrix

__all__ = ["FIXED", "Prediction", "Variance", "convert", "full_normal_reverse", "normal_reverse", "num_outputs"]

Prediction = Literal["residual", "epsilon", "x_0", "v", "perturbation"]
Variance = Literal["mixed", "sigmoid", "interpolated", "small", "large"]

# Variances that take no outputs of the network.
FIXED = ("small", "large")


def _scales(schedule: Schedule, t: Array, like: Array) -> tuple[Array, Array]:
    """sqrt(alpha_bar_t) and sigma_t."""
    return jnp.sqrt(at(schedule.alpha_bar, t, like)), jnp.sqrt(at(schedule.sigma2, t, like))


def _perturbation_of_v(schedule: Schedule, t: Array, like: Array) -> Array:
    beta, before = at(schedule.beta, t, like), at(schedule.alpha_bar, t - 1, like)
    return -jnp.sqrt(beta * before / at(schedule.sigma2, t, like))


def convert(schedule: Schedule, value: Array, x_t: Array, t: Array, *, source: Prediction, target: Prediction) -> Array:
    """A guess of `source` as the guess of `target` that says the same, [B, ...].

    Args:
      schedule: of T steps; nu_T finite for the sources "epsilon" and "residual".
      value: [B, ...] what is guessed, or known.
      x_t: [B, ...].
      t: [B] in 1..T.
      source: what `value` is.
      target: what is wanted.

    Raises:
      ValueError: if either is none of the five, or the source is divided by sqrt(alpha_bar_T) = 0.
    """
    for name, given in (("source", source), ("target", target)):
        if given not in get_args(Prediction):
            raise ValueError(f"{name}: must be one of {', '.join(get_args(Prediction))}, got {given!r}")
    if source == target:
        return value
    if source in ("epsilon", "residual") and concrete(schedule.alpha_bar) and np.asarray(schedule.alpha_bar)[-1] == 0:
        raise ValueError(
            f"schedule: alpha_bar_T is 0, where '{source}' says nothing of x_0; predict 'v' or 'x_0', or take a "
            "schedule that leaves some signal (alpha_bar_final > 0)"
        )
    signal, sigma = _scales(schedule, t, x_t)
    if source == "x_0":
        v = (signal * x_t - value) / sigma
    elif source == "epsilon":
        v = (value - sigma * x_t) / signal
    elif source == "residual":
        v = value / signal
    elif source == "perturbation":
        v = value / _perturbation_of_v(schedule, t, x_t)
    else:
        v = value
    if target == "x_0":
        return signal * x_t - sigma * v
    if target == "epsilon":
        return sigma * x_t + signal * v
    if target == "residual":
        return signal * v
    if target == "perturbation":
        return _perturbation_of_v(schedule, t, x_t) * v
    return v


def num_outputs(dim: int, variance: Variance) -> int:
    """How many outputs `normal_reverse` takes, for dim coordinates (or channels)."""
    return dim if variance in FIXED else 2 * dim


def _between(schedule: Schedule, t: Array, like: Array, share: Array | float) -> Array:
    """beta_t^share v_t^(1 - share); beta_1 at t = 1."""
    # v_t / beta_t = sigma2_{t-1} / sigma2_t.
    before = at(schedule.sigma2, t - 1, like)
    ratio = jnp.where(before == 0, 1.0, before / at(schedule.sigma2, t, like))
    return at(schedule.beta, t, like) * ratio ** (1 - share)


def normal_reverse(
    schedule: Schedule,
    x_t: Array,
    t: Array,
    outputs: Array,
    *,
    prediction: Prediction = "residual",
    variance: Variance = "mixed",
) -> Normal:
    """p(x_{t-1} | x_t) of a network's outputs, coordinates independent.

    Zero outputs are exact for standard normal data with the prediction "residual", "v" or "perturbation" and
    the variance "mixed", "sigmoid" or "large".

    Args:
      schedule: of T steps; nu_T finite; beta_t < 1.
      x_t: [B, ..., k].
      t: [B] in 1..T.
      outputs: [B, ..., `num_outputs`(k, variance)]: what is predicted, then c where the variance is learned.
      prediction: what the first k outputs are.
      variance: see above.

    Raises:
      ValueError: if prediction or variance is none of those.
    """
    if variance not in get_args(Variance):
        raise ValueError(f"variance: must be one of {', '.join(get_args(Variance))}, got {variance!r}")
    # Where the variance is fixed, no outputs are left for c.
    value, c = jnp.split(outputs, [x_t.shape[-1]], axis=-1)
    x_0 = convert(schedule, value, x_t, t, source=prediction, target="x_0")
    if variance == "mixed":
        return gaussian.mixed(schedule, x_0, at(schedule.sigma2, t, x_t) * jnp.exp(c), x_t, t)
    mean = gaussian.mixed(schedule, x_0, jnp.zeros_like(x_0), x_t, t).location
    if variance == "sigmoid":
        beta = at(schedule.beta, t, x_t)
        return Normal(mean, jax.nn.sigmoid(c + jnp.log(beta) - jnp.log1p(-beta)))
    share = {"small": 0.0, "large": 1.0}[variance] if variance in FIXED else (1 + c) / 2
    return Normal(mean, jnp.broadcast_to(_between(schedule, t, x_t, share), x_t.shape))


def full_normal_reverse(
    schedule: Schedule, x_t: Array, t: Array, outputs: Array, *, prediction: Prediction = "residual"
) -> FullNormal:
    """`normal_reverse` with a full covariance of x_0 given x_t, mixed, for low-dimensional data.

    The covariance is sigma2_t L L^T with L lower triangular; on a curve, such as the
    swiss roll, the noise along it and across it differ, and a diagonal cannot say so.

    Args:
      schedule: of T steps; nu_T finite.
      x_t: [B, d].
      t: [B] in 1..T.
      outputs: [B, d + d (d + 1) / 2]: what is predicted; then c, with L_ii = exp(c_i / 2); then L's
        entries below the diagonal, row by row.
      prediction: what the first d outputs are.

    Raises:
      ValueError: as `convert`.
    """
    dim = x_t.shape[-1]
    value, log_variance, below = jnp.split(outputs, [dim, 2 * dim], axis=-1)
    scale = jnp.exp(0.5 * log_variance)
    # Entry by entry: scatters and batched products of tiny matrices cost more than the network.
    entries = iter(jnp.moveaxis(below, -1, 0))
    low = [[scale[..., i] if i == j else next(entries) for j in range(i + 1)] for i in range(dim)]
    zero = jnp.zeros_like(scale[..., 0])
    rows = [[sum((a * b for a, b in zip(low[i], low[j], strict=False)), zero) for j in range(dim)] for i in range(dim)]
    covariance = at(schedule.sigma2, t, x_t)[..., None] * matrix(rows)
    x_0 = convert(schedule, value, x_t, t, source=prediction, target="x_0")
    return gaussian.mixed_full(schedule, x_0, covariance, x_t, t)

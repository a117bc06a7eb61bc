"""Parameterisations: the quantity that a network predicts, and the model that it makes, for real numbers and bits.

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

Conversions from v do not cancel. For v, a guess of x_0 is divided by sigma_t and one of epsilon by sqrt(alpha_bar_t),
which is how little x_t says of either at t = 1 and at t = T.

The mean of x_0 given x_t is the guess. Its variance, or that of the reverse step in place of it, is

    mixed         x_0: sigma_t^2 exp(c)
    small         x_0: 0; the step has v_t                         fixed: best where x_0 is one point
    large         x_0: sigma_t^2; the step has beta_t              fixed: best where x_0 is standard normal
    interpolated  step: beta_t^s v_t^(1 - s), s = (1 + c) / 2      Nichol & Dhariwal 2021, equation 15
    sigmoid       step: sigmoid(c + logit beta_t)                  the paper's (appendix D.2.1)

c being outputs of the network. At t = 1, where v_t is zero, interpolated and small have beta_1 (the authors of DDPM
take v_2). A sigmoid step may be narrower than any mixture of posteriors: that model has no denoiser. An interpolated
one may be, too, and its denoiser is as near as a law comes: x_0 is certain where the step is below v_t.

For bits, a network predicts x_0 (the logits of p(x_0 | x_t)), or the paper's perturbation: z added to the logits of a
forward step, which is exact for fair coins, and has no denoiser.

Notation of `processes.gaussian`; float32; x is [B, ..., k] and t int32 [B] in 1..T.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dpm_jax.distributions import Bernoulli, FullNormal, Normal
from dpm_jax.model import Model
from dpm_jax.numerics import refuse
from dpm_jax.numerics.shapes import at, concrete, level_at
from dpm_jax.numerics.small_matrices import matrix
from dpm_jax.processes import Binomial, Gaussian
from dpm_jax.schedules import Schedule

__all__ = [
    "FIXED",
    "Network",
    "Prediction",
    "Variance",
    "binomial",
    "convert",
    "full_gaussian",
    "gaussian",
    "num_outputs",
]

Prediction = Literal["residual", "epsilon", "x_0", "v", "perturbation"]
Variance = Literal["mixed", "sigmoid", "interpolated", "small", "large"]

# (x_t [B, ..., k], t int32 [B]) -> outputs [B, ..., n].
Network = Callable[[Array, Array], Array]

# Variances that take no outputs of the network.
FIXED = ("small", "large")


def _scales(schedule: Schedule, t: Array, like: Array) -> tuple[Array, Array]:
    """sqrt(alpha_bar_t) and sigma_t."""
    return jnp.sqrt(level_at(schedule.alpha_bar, t, like)), jnp.sqrt(level_at(schedule.sigma2, t, like))


def _perturbation_of_v(schedule: Schedule, t: Array, like: Array) -> Array:
    beta, before = at(schedule.beta, t, like), at(schedule.alpha_bar, t - 1, like)
    return -jnp.sqrt(beta * before / at(schedule.sigma2, t, like))


def convert(schedule: Schedule, value: Array, x_t: Array, t: Array, *, source: Prediction, target: Prediction) -> Array:
    """Return a guess of `source` as the guess of `target` that says the same, [B, ...].

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
        refuse.one_of(name, given, get_args(Prediction))
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
    """Return how many outputs `gaussian` takes, for dim coordinates (or channels)."""
    return dim if variance in FIXED else 2 * dim


def _between(schedule: Schedule, t: Array, like: Array, share: Array | float) -> Array:
    """beta_t^share v_t^(1 - share); beta_1 at t = 1."""
    # v_t / beta_t = sigma2_{t-1} / sigma2_t.
    before = at(schedule.sigma2, t - 1, like)
    ratio = jnp.where(before == 0, 1.0, before / at(schedule.sigma2, t, like))
    return at(schedule.beta, t, like) * ratio ** (1 - share)


def gaussian(
    process: Gaussian,
    network: Network,
    *,
    prediction: Prediction = "residual",
    variance: Variance = "mixed",
) -> Model:
    """Return the model of a network's outputs, coordinates independent.

    Zero outputs are exact for standard normal data with the prediction "residual", "v" or "perturbation" and
    the variance "mixed", "sigmoid" or "large".

    Args:
      process: of T steps; nu_T finite; beta_t < 1.
      network: its outputs are what is predicted, of the channels k of x, then c where the variance is learned:
        [B, ..., `num_outputs`(k, variance)].
      prediction: what the first k outputs are.
      variance: see above.

    Raises:
      ValueError: if prediction or variance is none of those.
    """
    refuse.one_of("prediction", prediction, get_args(Prediction))
    refuse.one_of("variance", variance, get_args(Variance))
    schedule = process.schedule

    def guess(x_t: Array, t: Array) -> tuple[Array, Array]:
        """x_0, and c; none of it is left where the variance is fixed."""
        value, c = jnp.split(network(x_t, t), [x_t.shape[-1]], axis=-1)
        return convert(schedule, value, x_t, t, source=prediction, target="x_0"), c

    def denoise(x_t: Array, t: Array) -> Normal:
        x_0, c = guess(x_t, t)
        if variance == "mixed":
            return Normal(x_0, level_at(schedule.sigma2, t, x_t) * jnp.exp(c))
        if variance == "interpolated":
            known = process.posterior(x_0, x_t, t)
            excess = jnp.maximum(_between(schedule, t, x_t, (1 + c) / 2) - known.variance, 0.0)
            gain = -jnp.expm1(-at(schedule.log_nsr_step, t, x_t))
            return Normal(x_0, excess / (at(schedule.alpha_bar, t - 1, x_t) * gain**2))
        certain = variance == "small"
        first = at(jnp.arange(schedule.num_timesteps + 1, dtype=jnp.float32), t, x_t) == 1
        return Normal(x_0, jnp.where(certain & ~first, 0.0, at(schedule.sigma2, t, x_t)))

    def steps(x_t: Array, t: Array) -> Normal:
        x_0, c = guess(x_t, t)
        p = process.posterior(x_0, x_t, t)
        if variance == "sigmoid":
            beta = at(schedule.beta, t, x_t)
            step_variance = jax.nn.sigmoid(c + jnp.log(beta) - jnp.log1p(-beta))
        else:
            step_variance = _between(schedule, t, x_t, (1 + c) / 2)
        return Normal(p.origin, step_variance, offset=p.offset)

    if variance == "sigmoid":
        return Model.from_steps(process, steps)
    return Model(process, denoise, steps if variance == "interpolated" else None)


def full_gaussian(process: Gaussian, network: Network, *, prediction: Prediction = "residual") -> Model:
    """Return the model of a network's outputs with a full covariance of x_0 given x_t, for low-dimensional data.

    The covariance is sigma2_t L L^T with L lower triangular; on a curve, such as the
    swiss roll, the noise along it and across it differ, and a diagonal cannot say so.

    Args:
      process: of T steps; nu_T finite.
      network: x_t [B, d] -> [B, d + d (d + 1) / 2]: what is predicted; then c, with L_ii = exp(c_i / 2); then L's
        entries below the diagonal, row by row.
      prediction: what the first d outputs are.

    Raises:
      ValueError: as `convert`.
    """
    refuse.one_of("prediction", prediction, get_args(Prediction))
    schedule = process.schedule

    def denoise(x_t: Array, t: Array) -> FullNormal:
        dim = x_t.shape[-1]
        value, log_variance, below = jnp.split(network(x_t, t), [dim, 2 * dim], axis=-1)
        scale = jnp.exp(0.5 * log_variance)
        # Entry by entry: scatters of tiny matrices cost more than the network.
        entries, zero = iter(jnp.moveaxis(below, -1, 0)), jnp.zeros_like(scale[..., 0])
        low = [[scale[..., i] if i == j else next(entries) if j < i else zero for j in range(dim)] for i in range(dim)]
        tril = jnp.sqrt(level_at(schedule.sigma2, t, x_t))[..., None] * matrix(low)
        return FullNormal(convert(schedule, value, x_t, t, source=prediction, target="x_0"), tril)

    return Model(process, denoise)


def binomial(process: Binomial, network: Network, *, prediction: Literal["x_0", "perturbation"] = "x_0") -> Model:
    """Return the model of a network's outputs, bits independent.

    Args:
      process: of T steps.
      network: its outputs are logits, of x_t's shape: of p(x_0 | x_t), or z, added to the logits of a forward step.
      prediction: which of them. Zero outputs are the best step of fair coins with "perturbation"; with "x_0" they
        ignore x_t, whose logits have to be learned.

    Raises:
      ValueError: if it is neither.
    """
    refuse.one_of("prediction", prediction, ("x_0", "perturbation"))
    if prediction == "x_0":
        return Model(process, lambda x_t, t: Bernoulli(network(x_t, t)))
    return Model.from_steps(process, lambda x_t, t: Bernoulli(network(x_t, t) + process.forward(x_t, t).logits))

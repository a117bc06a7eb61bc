"""The optimal denoiser, where the data are simple enough to know it.

A trained network can at best become this model, and tests compare the rest with it:

- normal data: p(x_0 | x_t) is normal, so the best reverse step is exact and K comes
  as near to the log-likelihood as the edges allow;
- data on finitely many points: q(x_{t-1} | x_t) is a mixture of the posteriors of the
  points. The best reverse step of a given form matches its means (bits: the best
  factorised step) or its means and covariances (normals). Its K at each T is the ceiling
  of every network with that form of reverse step.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from dpm_jax.distributions import Bernoulli, FullNormal
from dpm_jax.distributions.bernoulli import signs
from dpm_jax.model import Model
from dpm_jax.numerics.shapes import level_at
from dpm_jax.processes import Binomial, Gaussian

__all__ = ["finite_bits", "finite_points", "normal"]


# Accelerators multiply float32 matrices in fewer bits by default.
_product = partial(jnp.matmul, precision="highest")


def normal(process: Gaussian, mean: Array, covariance: Array) -> Model:
    """Return the exact model of data N(mean, covariance).

    x_0 | x_t ~ N(m, S) with S = (C^{-1} + I / nu_t)^{-1}.

    Args:
      process: of T steps, nu_T finite.
      mean: [d].
      covariance: [d, d], positive definite.
    """
    schedule = process.schedule
    values, vectors = jnp.linalg.eigh(covariance)
    variances, centre = values[None], mean[None]

    def denoise(x_t: Array, t: Array) -> FullNormal:
        alpha_bar = level_at(schedule.alpha_bar, t, x_t)
        ratio = level_at(schedule.sigma2, t, x_t) / alpha_bar
        s2 = variances * ratio / (variances + ratio)
        # In the eigenbasis: m = mean + C / (C + nu) (x_t / sqrt(alpha_bar) - mean).
        innovation = _product(x_t / jnp.sqrt(alpha_bar) - centre, vectors)
        x_0 = centre + _product(variances / (variances + ratio) * innovation, vectors.T)
        return FullNormal.of_covariance(x_0, _product(vectors[None] * s2[:, None, :], vectors.T))

    return Model(process, denoise)


def finite_points(process: Gaussian, points: Array, log_weights: Array) -> Model:
    """Return the model whose denoiser has mean and covariance of x_0 given x_t, for data on finitely many points.

    Args:
      process: of T steps, nu_T finite. For t >= 2: at t = 1 the law is a point, and has no density.
      points: [n, d].
      log_weights: [n], normalised.
    """
    schedule = process.schedule

    def denoise(x_t: Array, t: Array) -> FullNormal:
        alpha_bar = level_at(schedule.alpha_bar, t, x_t)
        ratio = level_at(schedule.sigma2, t, x_t) / alpha_bar
        difference = x_t[:, None] / jnp.sqrt(alpha_bar)[:, None] - points[None]
        weights = jax.nn.softmax(log_weights[None] - 0.5 * (difference**2).sum(-1) / ratio, axis=-1)
        x_0 = _product(weights, points)
        around = points[None] - x_0[:, None]
        spread = jnp.einsum("bn,bni,bnj->bij", weights, around, around, precision="highest")
        return FullNormal.of_covariance(x_0, spread)

    return Model(process, denoise)


def finite_bits(process: Binomial, points: Array, log_weights: Array) -> Model:
    """Return the best factorised model of bit strings with finitely many values.

    A bit's posterior depends on its x_0 alone, so the marginals of x_{t-1} follow from
    those of x_0 given x_t, which enumeration gives; and of all factorised steps the
    one with the true marginals has the least KL.

    Args:
      process: of T steps.
      points: [n, d] of 0.0 and 1.0.
      log_weights: [n], normalised.
    """

    def denoise(x_t: Array, t: Array) -> Bernoulli:
        # Each bit that is as in the point adds the log-odds that it is unchanged, the same for all bits at t.
        unchanged = process.marginal(jnp.ones((x_t.shape[0], 1)), t).logits
        log_joint = (log_weights[None] + 0.5 * unchanged * _product(signs(x_t), signs(points).T))[..., None]
        log_one, log_zero = (jax.nn.logsumexp(log_joint, axis=1, b=bits[None]) for bits in (points, 1 - points))
        return Bernoulli(log_one - log_zero)

    return Model(process, denoise)

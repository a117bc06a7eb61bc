"""The optimal reverse function, where the data are simple enough to know it.

What a trained network could at best become, and what tests compare the rest with:

- normal data: q(x_{t-1} | x_t) is normal, so the best reverse step is exact and K comes
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

from dpm_jax import binomial, gaussian
from dpm_jax.schedules import Schedule
from dpm_jax.shapes import at
from dpm_jax.types import Reverse

__all__ = ["finite_bits", "finite_points", "normal"]


# Accelerators multiply float32 matrices in fewer bits unless told otherwise.
_product = partial(jnp.matmul, precision="highest")


def normal(schedule: Schedule, mean: Array, covariance: Array) -> Reverse:
    """The exact q(x_{t-1} | x_t) for data N(mean, covariance).

    From x_0 | x_t ~ N(m, S) with S = (C^{-1} + I / nu_t)^{-1}, mixed into the posteriors:
    N(b_t m + a_t x_t, v_t I + b_t^2 S), notation of `gaussian`.

    Args:
      schedule: of T steps, nu_T finite.
      mean: [d].
      covariance: [d, d], positive definite.
    """
    values, vectors = jnp.linalg.eigh(covariance)
    variances, centre = values[None], mean[None]

    def reverse(x_t: Array, t: Array) -> gaussian.FullNormal:
        ratio = jnp.exp(at(schedule.log_nsr, t, x_t))
        alpha_bar = at(schedule.alpha_bar, t, x_t)
        s2 = variances * ratio / (variances + ratio)
        # In the eigenbasis: m = mean + C / (C + nu) (x_t / sqrt(alpha_bar) - mean).
        innovation = _product(x_t / jnp.sqrt(alpha_bar) - centre, vectors)
        x_0 = centre + _product(variances / (variances + ratio) * innovation, vectors.T)
        spread = _product(vectors[None] * s2[:, None, :], vectors.T)
        return gaussian.mixed_full(schedule, x_0, spread, x_t, t)

    return reverse


def finite_points(schedule: Schedule, points: Array, log_weights: Array) -> Reverse:
    """The moment-matched q(x_{t-1} | x_t), full covariance, for data on finitely many points.

    Args:
      schedule: of T steps, nu_T finite. For t >= 2: at t = 1 the law is a point, and has no density.
      points: [n, d].
      log_weights: [n], normalised.
    """

    def reverse(x_t: Array, t: Array) -> gaussian.FullNormal:
        difference = x_t[:, None] / jnp.sqrt(at(schedule.alpha_bar, t, x_t))[:, None] - points[None]
        ratio = jnp.exp(at(schedule.log_nsr, t, x_t))
        weights = jax.nn.softmax(log_weights[None] - 0.5 * (difference**2).sum(-1) / ratio, axis=-1)
        x_0 = _product(weights, points)
        around = points[None] - x_0[:, None]
        spread = jnp.einsum("bn,bni,bnj->bij", weights, around, around, precision="highest")
        return gaussian.mixed_full(schedule, x_0, spread, x_t, t)

    return reverse


def finite_bits(schedule: Schedule, points: Array, log_weights: Array) -> Reverse:
    """The best factorised q(x_{t-1} | x_t) for bit strings with finitely many values.

    A bit's posterior depends on its own x_0 alone, so the marginals of x_{t-1} follow from
    those of x_0 given x_t, which are had by enumeration; and of all factorised steps the
    one with the true marginals has the least KL.

    Args:
      schedule: of T steps.
      points: [n, d] of 0.0 and 1.0.
      log_weights: [n], normalised.
    """

    def reverse(x_t: Array, t: Array) -> binomial.Bernoulli:
        every = jnp.broadcast_to(points, (x_t.shape[0], *points.shape))
        logits = binomial.marginal(schedule, every, t).logits
        log_likelihood = jax.nn.log_sigmoid(jnp.where(x_t[:, None] > 0.5, logits, -logits)).sum(-1)
        log_joint = (log_weights[None] + log_likelihood)[..., None]
        log_one = jax.nn.logsumexp(jnp.where(points[None] > 0.5, log_joint, -jnp.inf), axis=1)
        log_zero = jax.nn.logsumexp(jnp.where(points[None] > 0.5, -jnp.inf, log_joint), axis=1)
        return binomial.denoised_reverse(schedule, x_t, t, log_one - log_zero)

    return reverse

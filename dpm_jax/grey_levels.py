"""Predictions of grey levels: a network's law of each pixel over the levels, and the model that it makes.

Bayes' rule gives the law of a pixel's level v from its noisy value x_t and from what the rest of the image says,

    p(v | x_t)  ~  N(x_t; sqrt(alpha_bar_t) v, sigma_t^2)  exp(c . f(v)),

c being the network's outputs and f fixed functions of the level: a slope, a bend, bumps, and single levels at both
ends of the scale, of which images have many. The first factor is exact, so a network need not learn that pixels are
whole levels, nor how to read fine noise: with c = 0 this is the best denoiser of pixels of any level alike. Networks
that predict the mean itself spend most of a short training on that. It is discrete diffusion's
prediction of x_0 (Austin et al. 2021, D3PM, section 3.3) with Gaussian noise; the features are not from a paper.

The model takes the mean and the variance of this law, which is all that a Gaussian reverse step can use.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dpm_jax.distributions import Grid, Normal
from dpm_jax.model import Model
from dpm_jax.numerics.shapes import level_at
from dpm_jax.predictions import Network
from dpm_jax.processes import Gaussian

__all__ = ["features", "gaussian", "num_outputs"]

# Bumps over the scale, and single levels at its lower and its upper end.
_BUMPS, _LOWEST, _HIGHEST = 8, 2, 5
# Size of the features of single levels; the others have about half of it. Outputs of order 1 then make a difference.
_SIZE = 4.0


def features(num_levels: int) -> np.ndarray:
    """Return f(v) of every level v, [features, num_levels] float32, in nats for an output of 1.

    Args:
      num_levels: how many levels there are, 2 or more.
    """
    v = np.arange(num_levels)
    place = 2 * v / (num_levels - 1) - 1
    spacing = 2 / (_BUMPS - 1)
    bumps = np.exp(-0.5 * ((place - np.linspace(-1, 1, _BUMPS)[:, None]) / (0.75 * spacing)) ** 2)
    ends = [distance for width in (3.0, 10.0) for distance in (np.exp(-v / width), np.exp(-v[::-1] / width))]
    single = [v == level for level in (*range(_LOWEST), *range(num_levels - _HIGHEST, num_levels))]
    smooth = np.stack([1.5 * place, 1.5 * place**2, *bumps, *ends])
    return np.concatenate([_SIZE / 2 * smooth, _SIZE * np.stack(single)]).astype(np.float32)


def num_outputs(dim: int, grid: Grid) -> int:
    """Return the number of outputs that `gaussian` takes, for dim channels."""
    return dim * len(features(grid.num))


def gaussian(process: Gaussian, network: Network, grid: Grid) -> Model:
    """Return the model of a network's outputs, pixels independent given x_t.

    Args:
      process: of T steps; nu_T finite.
      network: x_t [B, ..., k] -> c, [B, ..., `num_outputs`(k, grid)], those of a channel next to each other; t may be
        real, see `bound.limit`.
      grid: of the data.
    """
    schedule, table = process.schedule, jnp.asarray(features(grid.num))
    levels = jnp.arange(grid.num, dtype=jnp.float32)[None, None]

    def moments(c: Array, nearest: Array, apart: Array, variance: Array) -> tuple[Array, Array]:
        """Mean and variance of level less `nearest` of each pixel, the noisy level being nearest + apart."""
        offset = levels - nearest[..., None]
        log_likelihood = -0.5 * offset * (offset - 2 * apart[..., None]) / variance[..., None]
        log_weight = jnp.matmul(c, table, precision="highest") + log_likelihood
        weight = jnp.exp(log_weight - jax.lax.stop_gradient(log_weight.max(axis=-1, keepdims=True)))
        total = weight.sum(axis=-1)
        mean, square = ((weight * power).sum(axis=-1) / total for power in (offset, offset**2))
        return mean, jnp.maximum(square - mean**2, 0.0)

    def denoise(x_t: Array, t: Array) -> Normal:
        alpha_bar = level_at(schedule.alpha_bar, t, x_t)
        variance = level_at(schedule.sigma2, t, x_t) / (alpha_bar * grid.width**2)
        where = (x_t / jnp.sqrt(alpha_bar) - grid.lowest) / grid.width
        nearest = jnp.clip(jnp.round(where), 0, grid.num - 1)
        # An example's pixels on one axis: with more of them the sums over levels take twice as long on CPUs.
        num = math.prod(x_t.shape[1:])
        flat = (jnp.broadcast_to(a, x_t.shape).reshape(-1, num) for a in (nearest, where - nearest, variance))
        c = network(x_t, t).reshape(-1, num, len(table))
        # What lies between, a number for each level, is not kept for the gradient.
        mean, spread = (a.reshape(x_t.shape) for a in jax.checkpoint(moments, prevent_cse=False)(c, *flat))
        # At t = 1 the levels are read by their density under this normal, and a narrower one would be certain of a
        # wrong level where the noise is large.
        first = (jnp.asarray(t) == 1).reshape(jnp.shape(t) + (1,) * (x_t.ndim - jnp.ndim(t)))
        spread = jnp.where(first, jnp.maximum(spread, variance), spread)
        return Normal(grid.lowest + grid.width * nearest, grid.width**2 * spread, offset=grid.width * mean)

    return Model(process, denoise)

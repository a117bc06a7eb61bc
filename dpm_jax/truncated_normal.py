"""Code lengths of 8-bit pixels without a decoder: dequantisation by a truncated normal (Zheng et al. 2023, i-DODE).

A model of the noisy x_1 has a density. Any law q of x_1 given the level that stays in the level's cell gives a bound,

    log P(level)  >=  E_q [log p(x_1)] - E_q [log q(x_1)],

as uniform noise of one level does. Where the noise of the first step is a fraction of a level, the forward process
itself, q(x_1 | x_0), hardly leaves the cell, and cut off at the cell's borders it is such a law. No part of a model has
to be trained for it, and it needs no law of the levels. log p(x_1) is bounded by K of the chain that begins at x_1.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dpm_jax import bound
from dpm_jax.distributions import Grid
from dpm_jax.model import Model
from dpm_jax.numerics.shapes import as_float32, concrete
from dpm_jax.processes import Gaussian
from dpm_jax.schedules import from_log_nsr

__all__ = ["evaluate"]

# Widest noise, in levels: 5 % of it then lies outside of the cell. Cut off wider noise is unlike what a model has seen.
_MOST = 0.25


def evaluate(key: Array, model: Model, x_0: Array, grid: Grid, *, num_times: int | None = None) -> Array:
    """Return the bound on the log-probability of levels, less log of their width for each coordinate, [B] nats.

    So it compares with K of `bound.evaluate` with the edge `grid.log_prob`, and `units` makes bits/dim of it.

    Args:
      key: PRNG key.
      model: of a Gaussian process of T > 1 steps, known before tracing, nu_T finite.
      x_0: [B, ...] levels.
      grid: of the data.
      num_times: as of `bound.evaluate`; few of them give large errors, for the first steps lose much more than others.

    Raises:
      ValueError: if the process is not Gaussian, T is 1, or the noise of the first step exceeds a quarter of a level.
    """
    if not isinstance(model.process, Gaussian):
        raise ValueError(f"model: truncated normals are for a Gaussian process, got {type(model.process).__name__}")
    if model.num_timesteps == 1:
        raise ValueError("model: needs more than one step")
    x_0, schedule = as_float32(x_0, "x_0"), model.process.schedule
    if not concrete(schedule.log_nsr):
        raise ValueError("schedule: is traced by jit or grad; make the model outside of them")
    log_nsr = np.asarray(schedule.log_nsr, np.float64)[1:]
    noise = math.exp(0.5 * log_nsr[0]) / grid.width
    if noise > _MOST:
        raise ValueError(
            f"schedule: the noise of the first step must be at most {_MOST} of a level, got {noise:.3g}; lower beta_1"
        )
    draw_key, bound_key = jax.random.split(key)
    # The cell reaches this many standard deviations to either side.
    border = 0.5 / noise
    inside = math.erf(border / math.sqrt(2))
    z = jax.random.truncated_normal(draw_key, -border, border, x_0.shape)
    scale = jnp.sqrt(schedule.sigma2[1])
    x_1 = jnp.sqrt(schedule.alpha_bar[1]) * x_0 + scale * z
    density = math.exp(-0.5 * border**2) / math.sqrt(2 * math.pi)
    entropy = 0.5 * math.log(2 * math.pi * math.e) + jnp.log(scale * inside) - border * density / inside
    # Seen from x_1: the noise that came later.
    later = np.log(np.expm1(log_nsr[1:] - log_nsr[0])) + log_nsr[0] - np.log1p(math.exp(log_nsr[0]))
    chain = Model.from_steps(Gaussian(from_log_nsr(later)), lambda x_t, t: model.reverse(x_t, t + 1))
    k = bound.evaluate(bound_key, chain, x_1, edge="decoder", num_times=num_times).k
    num = math.prod(x_0.shape[1:])
    return k + num * (entropy - math.log(grid.width))

"""Conditional probabilities: log p(a part of x_0 | the rest) under the model.

    log p(x_a | x_b) = log p(x_a, x_b) - log p(x_b)

The first is estimated by annealed importance sampling (`likelihood`), the second is the evidence of a posterior in
which x_b is known (`smc`). Both estimates are unbiased before the logarithm, and low in the mean after it; so
the difference is an estimate and no bound, right as trajectories and particles become many.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from dpm_jax import guidance, likelihood, smc
from dpm_jax.model import Model
from dpm_jax.numerics import loops

__all__ = ["Conditional", "log_conditional"]


class Conditional(NamedTuple):
    """Log-probabilities (densities, for real numbers), [B] nats.

    Attributes:
      conditional: log p(hidden | observed): joint - observed.
      joint: log p(x_0), the stochastic lower bound of `likelihood.lower`.
      observed: log p(observed part), by particles.
      stderr: standard error of conditional, by the scatter of the trajectories' weights and that of `smc`.
      effective_size: [B] least effective sample size of the particles.
      doubtful: [B] bool, whether few particles dominate, so that stderr and effective_size may be wrong.
    """

    conditional: Array
    joint: Array
    observed: Array
    stderr: Array
    effective_size: Array
    doubtful: Array


def log_conditional(
    key: Array,
    model: Model,
    x_0: Array,
    observed: Array,
    *,
    num_trajectories: int,
    num_particles: int,
    how: guidance.How = "denoised",
) -> Conditional:
    """Return log p(x_0 where not observed | x_0 where observed) for each example.

    Args:
      key: PRNG key.
      model: a process and a denoiser.
      x_0: [B, ...].
      observed: bool, broadcasting to it; something must be observed.
      num_trajectories: of annealed importance sampling, for each example.
      num_particles: of sequential Monte Carlo, for each example.
      how: the observed part acts along the particles' chains, see `guidance`.

    All trajectories, and all particles, go through the network at once: memory is theirs.

    Returns:
      `Conditional`.
    """
    joint_key, particle_key = jax.random.split(key)
    weights = likelihood.log_weights(joint_key, model, x_0, num_trajectories)
    joint = likelihood.lower(weights, num_trajectories)
    law: Any = type(model.process.prior((1, 1)))
    r = law.known(loops.whole(x_0), jnp.broadcast_to(observed, x_0.shape))
    found = smc.sample(particle_key, model, r, how, num_particles)
    shares = jax.nn.softmax(weights, axis=-1)
    variance = (
        ((shares - 1 / num_trajectories) ** 2).sum(axis=-1) * num_trajectories / jnp.float32(num_trajectories - 1)
    )
    return Conditional(
        conditional=joint - found.log_evidence,
        joint=joint,
        observed=found.log_evidence,
        stderr=jnp.sqrt(variance + found.stderr**2),
        effective_size=found.effective_size.min(axis=0),
        doubtful=found.doubtful,
    )

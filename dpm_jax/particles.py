"""Sequential Monte Carlo over the reverse chain: posteriors that become exact as particles are added.

The posterior over whole trajectories, p(x_{0:T}) r(x_0) / Z, is approached by a guided chain with steps
p~(x_{t-1} | x_t) and guesses psi_t(x_t) of E[r(x_0) | x_t] (`posterior.guide`). A particle at x_t that stands
for p(x_{t:T}) psi_t(x_t) moves on with weight

    p(x_{t-1} | x_t) psi_{t-1}(x_{t-1}) / (p~(x_{t-1} | x_t) psi_t(x_t)),    psi_0 = r,

and whenever the effective sample size of the weights falls below a share of the particles, they are drawn anew
in proportion to them, systematically (Doucet and Johansen 2009; Wu et al. 2023, for diffusion models). The
guesses cancel: whatever they are, the weighted particles converge to the posterior, and the
mean of the weights is an unbiased estimate of Z = E r(x_0), the probability of what was
observed. Good guesses keep the effective sample size high.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from dpm_jax import loops
from dpm_jax.posterior import Evidence, Guide, Linear, log_likelihood
from dpm_jax.types import Kernel

__all__ = ["Particles", "draw", "sample"]


class Particles(NamedTuple):
    """Weighted samples of B posteriors, N particles each.

    Attributes:
      x: [B, N, ...] x_0.
      log_weights: [B, N] normalised; all -inf where every particle was lost.
      log_evidence: [B] log of an unbiased estimate of Z = E r(x_0) under the model, nats; -inf where lost.
      effective_size: [T + 1, B] effective sample size, between 1 and N: index t before x_t is
        drawn anew, index 0 at the end. 0 where lost. It cannot show modes that no particle found.
    """

    x: Array
    log_weights: Array
    log_evidence: Array
    effective_size: Array


def _systematic(key: Array, log_weights: Array, num: int) -> Array:
    """Indices of [B, num] draws in proportion to the weights [B, N], with one uniform number a row."""
    weights = jax.nn.softmax(log_weights, axis=-1)
    offsets = jax.random.uniform(key, (weights.shape[0], 1))
    positions = (jnp.arange(num, dtype=jnp.float32)[None] + offsets) / num
    ends = jnp.cumsum(weights, axis=-1)
    index = jax.vmap(lambda end, position: jnp.searchsorted(end, position, side="right"))(ends, positions)
    # Rounding may leave the last end short of one.
    return jnp.minimum(index, weights.shape[-1] - 1)


def _effective_size(log_weights: Array) -> Array:
    """(sum w)^2 / sum w^2, [B]; 0 where no particle has any weight."""
    total = jax.nn.logsumexp(log_weights, axis=-1)
    alive = jnp.isfinite(total)
    size = jnp.exp(2 * jnp.where(alive, total, 0.0) - jax.nn.logsumexp(2 * log_weights, axis=-1))
    return jnp.where(alive, size, 0.0)


def _finite(log_weights: Array) -> Array:
    """Weights that are no numbers count nothing: a chain that ran away stands for no sample."""
    return jnp.where(jnp.isnan(log_weights) | (log_weights == jnp.inf), -jnp.inf, log_weights)


def sample(
    key: Array,
    kernel: Kernel,
    guide: Guide,
    r: Evidence,
    num_posteriors: int,
    num_particles: int,
    shape: tuple[int, ...],
    num_timesteps: int,
    *,
    threshold: float = 0.5,
) -> Particles:
    """Particles of the posteriors of a model given evidence, as one scan.

    Args:
      key: PRNG key.
      kernel: `gaussian` or `binomial`.
      guide: of `posterior.guide`, called with batches of num_posteriors * num_particles, a
        posterior's particles next to one another: so evidence of several posteriors is repeated
        (`jnp.repeat(y, num_particles, axis=0)`).
      r: the evidence that `guide` was made with.
      num_posteriors: B.
      num_particles: N.
      shape: of one example.
      num_timesteps: T.
      threshold: particles are drawn anew when the effective sample size falls below this share of N.

    Returns:
      `Particles`.
    """
    start_key, steps_key = jax.random.split(key)
    size = (num_posteriors, num_particles)
    batch = num_posteriors * num_particles

    def grouped(values: Array) -> Array:
        return values.reshape(*size, *values.shape[1:])

    def flat(values: Array) -> Array:
        return values.reshape(batch, *values.shape[2:])

    def advance(x_t: Array, log_weights: Array, log_z: Array, t: Array) -> tuple[Any, ...]:
        """Weigh the particles at time t, draw them anew where needed, move them on."""
        choose_key, move_key = jax.random.split(jax.random.fold_in(steps_key, t))
        step = guide(x_t, jnp.full(batch, t, jnp.int32))
        twist = grouped(step.log_twist)
        log_weights = _finite(log_weights + twist)
        effective = _effective_size(log_weights)
        anew = effective < threshold * num_particles
        index = jnp.where(
            anew[:, None], _systematic(choose_key, log_weights, num_particles), jnp.arange(num_particles)[None]
        )

        def chosen(values: Array) -> Array:
            if values.ndim == 0 or values.shape[0] != batch:
                return values  # the same for all
            return flat(jax.vmap(lambda group, i: group[i])(grouped(values), index))

        step = jax.tree.map(chosen, step)
        # Their mean weight goes into the estimate of Z, and all weigh the same from there on.
        total = jax.nn.logsumexp(log_weights, axis=-1)
        log_z = jnp.where(anew, log_z + total - jnp.log(num_particles), log_z)
        log_weights = jnp.where(anew[:, None], 0.0, log_weights)
        x = kernel.sample(move_key, step.posterior)
        return x, log_weights - grouped(step.log_twist), log_z, step, effective

    def scanned(carry: tuple[Array, Array, Array], t: Array) -> tuple[tuple[Array, Array, Array], Array]:
        x, log_weights, log_z, step, effective = advance(*carry, t)
        change = kernel.log_prob(step.model, x) - kernel.log_prob(step.posterior, x)
        return (x, log_weights + grouped(change), log_z), effective

    prior = kernel.prior(jnp.zeros((batch, *shape)))
    x_last = kernel.sample(start_key, prior)
    carry = (x_last, jnp.zeros(size, jnp.float32), jnp.zeros(num_posteriors, jnp.float32))
    carry, sizes = loops.scan(scanned, carry, jnp.arange(num_timesteps, 1, -1))
    x, log_weights, log_z, step, effective = advance(*carry, jnp.asarray(1))
    if callable(r) or isinstance(r, Linear):
        change = kernel.log_prob(step.model, x) - kernel.log_prob(step.posterior, x) + log_likelihood(kernel, r, x)
    else:
        # The last step is the product in closed form, known coordinates and all: its weight is its Z.
        change = kernel.log_overlap(step.model, jax.tree.map(loops.whole, r))
    log_weights = _finite(log_weights + grouped(change))
    total = jax.nn.logsumexp(log_weights, axis=-1)
    normalised = jnp.where(jnp.isfinite(total)[:, None], log_weights - total[:, None], -jnp.inf)
    sizes = jnp.concatenate([sizes, effective[None], _effective_size(log_weights)[None]])[::-1]
    return Particles(grouped(x), normalised, log_z + total - jnp.log(num_particles), sizes)


def draw(key: Array, particles: Particles, num: int) -> Array:
    """Unweighted draws from each posterior, [B, num, ...]; a particle may come up more than once."""
    choose_key, order_key = jax.random.split(key)
    index = _systematic(choose_key, particles.log_weights, num)
    # In random order, so that any first few of them are draws, too.
    index = jax.random.permutation(order_key, index, axis=1, independent=True)
    drawn: Array = jax.vmap(lambda x, i: x[i])(particles.x, index)
    return drawn

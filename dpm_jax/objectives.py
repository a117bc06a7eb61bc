"""Losses that other work trains with instead of the bound K; each takes any reverse function.

    simple      E |eps - eps_hat|^2 a dimension: DDPM's L_simple (Ho et al. 2020, equation 14); the mean alone learns
    hybrid      simple, plus a little of -K for the variance alone (Nichol & Dhariwal 2021, equation 16)
    sample_mse  E |x_{t-1} - x'_{t-1}|^2 a dimension, of draws of q(x_{t-1} | x_t, x_0) and of p(x_{t-1} | x_t)

The last is what comes to mind first, and is kept to show what it loses: a draw is nearest to others when its
own law is narrowest, so the variance falls to its least value (a bit goes to its likelier side), where K is bad
or -infinity.

None is a bound of anything; `bound.evaluate` gives K of what they have trained. Losses are scalars, differentiable
in what `reverse` depends on. The times are 2..T as in the sum of K, the edge being its own; with the edge
"decoder", in which p(x_0 | x_1) is the network's too, `simple` and `hybrid` take 1..T.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from dpm_jax import bound, gaussian, predictions, timesteps
from dpm_jax.bound import Edge
from dpm_jax.schedules import Schedule
from dpm_jax.shapes import at
from dpm_jax.types import Distribution, Kernel, Reverse, reverse_step

__all__ = ["HYBRID_WEIGHT", "hybrid", "sample_mse", "simple"]

# Of -K in nats a dimension. Nichol & Dhariwal take 0.001 of the sum over T = 4000 steps.
HYBRID_WEIGHT = 1e-3


def _times(key: Array, num: int, num_timesteps: int, edge: Edge, time_sampler: timesteps.TimeSampler) -> Array:
    if edge == "forward":
        return time_sampler(key, num, num_timesteps).t
    # A chain with one more step has this one's first among the times that are drawn.
    return time_sampler(key, num, num_timesteps + 1).t - 1


def simple(
    key: Array,
    schedule: Schedule,
    reverse: Reverse,
    x_0: Array,
    *,
    edge: Edge = "forward",
    time_sampler: timesteps.TimeSampler = timesteps.low_discrepancy,
) -> Array:
    """DDPM's L_simple, of the mean of any normal reverse step: the noise it implies, against the noise there was.

    Args:
      key: PRNG key.
      schedule: of T steps; nu_T finite.
      reverse: (x_t, t) -> `Normal` or `FullNormal`.
      x_0: [B, ...] data.
      edge: how p(x_0 | x_1) is treated, see `bound`.
      time_sampler: which t; its weights are not used: all t count alike.
    """
    x_0 = gaussian.data(x_0)
    time_key, noise_key = jax.random.split(key)
    t = _times(time_key, x_0.shape[0], schedule.num_timesteps, edge, time_sampler)
    eps = gaussian.noise(noise_key, x_0.shape)
    x_t = gaussian.place(gaussian.marginal(schedule, x_0, t), eps)
    beta = at(schedule.beta, t, x_t)
    # E[x_{t-1}] - sqrt(1 - beta_t) x_t, by way of x_t: fine steps hardly move it.
    moved = gaussian.mean_less(reverse_step(reverse, x_t, t), x_t) + beta / (1 + jnp.sqrt(1 - beta)) * x_t
    perturbation = moved / jnp.sqrt(beta)
    guess = predictions.convert(schedule, perturbation, x_t, t, source="perturbation", target="epsilon")
    return jnp.mean((guess - eps) ** 2)


def hybrid(
    key: Array,
    schedule: Schedule,
    reverse: Reverse,
    x_0: Array,
    *,
    edge: Edge = "forward",
    time_sampler: timesteps.TimeSampler = timesteps.low_discrepancy,
    weight: float = HYBRID_WEIGHT,
) -> Array:
    """`simple` for the mean, and `weight` times -K a dimension for the variance, to which K's gradient is confined.

    Args:
      key: PRNG key.
      schedule: of T steps; nu_T finite.
      reverse: (x_t, t) -> `Normal` or `FullNormal` with a learned variance.
      x_0: [B, ...] data.
      edge: how p(x_0 | x_1) is treated, see `bound`.
      time_sampler: which t.
      weight: of -K in nats a dimension.
    """

    def with_mean_fixed(x_t: Array, t: Array) -> Distribution:
        p = reverse(x_t, t)
        return p._replace(location=jax.lax.stop_gradient(p.location))

    simple_key, bound_key = jax.random.split(key)
    k = bound.estimate(bound_key, gaussian, schedule, with_mean_fixed, x_0, edge=edge, time_sampler=time_sampler).mean
    loss = simple(simple_key, schedule, reverse, x_0, edge=edge, time_sampler=time_sampler)
    return loss - weight * k * x_0.shape[0] / x_0.size


def sample_mse(
    key: Array,
    kernel: Kernel,
    schedule: Schedule,
    reverse: Reverse,
    x_0: Array,
    *,
    time_sampler: timesteps.TimeSampler = timesteps.low_discrepancy,
) -> Array:
    """Squared distance of a draw of the model's step from one of the posterior, with the draws averaged over.

        E |x - x'|^2 = |E[x] - E[x']|^2 + tr Var[x] + tr Var[x'],   x ~ q, x' ~ p independent

    For bits it is how often the two differ.

    Args:
      key: PRNG key.
      kernel: `gaussian` or `binomial`.
      schedule: of T > 1 steps.
      reverse: (x_t, t) -> distribution.
      x_0: [B, ...] data.
      time_sampler: which t, each counting by its weight.
    """
    x_0 = kernel.data(x_0)
    time_key, noise_key = jax.random.split(key)
    num = max(schedule.num_timesteps - 1, 1)
    draw = time_sampler(time_key, x_0.shape[0], schedule.num_timesteps)
    t = draw.t
    x_t = kernel.q_sample(noise_key, schedule, x_0, t)
    q, p = kernel.q_posterior(schedule, x_0, x_t, t), reverse_step(reverse, x_t, t)
    distance = (kernel.mean(q) - kernel.mean(p)) ** 2 + kernel.variance(q) + kernel.variance(p)
    return jnp.mean(distance.reshape(len(t), -1).mean(axis=1) * draw.weight) / num

"""Losses that other work trains with instead of the bound K; each takes any model.

    simple      E |eps - eps_hat|^2 a dimension: DDPM's L_simple (Ho et al. 2020, equation 14); the mean alone learns
    hybrid      simple, plus a little of -K for the variance alone (Nichol & Dhariwal 2021, equation 16)
    sample_mse  E |x_{t-1} - x'_{t-1}|^2 a dimension, of draws of q(x_{t-1} | x_t, x_0) and of p(x_{t-1} | x_t)

The last is what comes to mind first, and is kept to show what it loses: a draw is nearest to others when its
own law is narrowest, so the variance falls to its least value (a bit goes to its likelier side), where K is bad
or -infinity.

None is a bound of anything; `bound.evaluate` gives K of what they have trained. Losses are scalars, differentiable
in what the model depends on. The times are 2..T as in the sum of K, the edge being its own; with the edge
"decoder", in which p(x_0 | x_1) is the network's too, `simple` and `hybrid` take 1..T.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from dpm_jax import predictions, timesteps
from dpm_jax.bound import Edge, edge_log_prob
from dpm_jax.distributions import FullNormal, Normal
from dpm_jax.model import Model
from dpm_jax.numerics.shapes import as_float32, at
from dpm_jax.processes import Gaussian
from dpm_jax.schedules import Schedule

__all__ = ["HYBRID_WEIGHT", "hybrid", "sample_mse", "simple"]

# Of -K in nats a dimension. Nichol & Dhariwal take 0.001 of the sum over T = 4000 steps.
HYBRID_WEIGHT = 1e-3


def _gaussian(model: Model) -> Gaussian:
    if not isinstance(model.process, Gaussian):
        raise ValueError(f"process: the noise is that of a Gaussian, got a {type(model.process).__name__}")
    return model.process


def simple(
    key: Array,
    model: Model,
    x_0: Array,
    *,
    edge: Edge = "forward",
    time_sampler: timesteps.TimeSampler = timesteps.low_discrepancy,
) -> Array:
    """Return DDPM's L_simple of the mean of any normal reverse step: the noise it implies, against the noise there was.

    Args:
      key: PRNG key.
      model: of a Gaussian process with nu_T finite; its steps are `Normal` or `FullNormal`.
      x_0: [B, ...] data.
      edge: how p(x_0 | x_1) is treated, see `bound`.
      time_sampler: which t; its weights are not used: all t count alike.

    Raises:
      ValueError: if the process is not Gaussian.
    """
    look = _look(key, model, x_0, edge, time_sampler)
    return _noise_error(_gaussian(model).schedule, look, look.p)


class _Look(NamedTuple):
    """One t of each example, with its noise and weight, and the model's step there."""

    t: Array
    weight: Array
    eps: Array
    x_t: Array
    p: Any


def _look(key: Array, model: Model, x_0: Array, edge: Edge, time_sampler: timesteps.TimeSampler) -> _Look:
    process, x_0 = _gaussian(model), as_float32(x_0, "x_0")
    time_key, noise_key = jax.random.split(key)
    # A chain with one more step has this one's first among the times that are drawn.
    more = 0 if edge == "forward" else 1
    draw = time_sampler(time_key, x_0.shape[0], process.num_timesteps + more)
    t = draw.t - more
    eps = jax.random.normal(noise_key, x_0.shape, jnp.float32)
    x_t = process.marginal(x_0, t).place(eps)
    return _Look(t, draw.weight, eps, x_t, model.reverse(x_t, t))


def _noise_error(schedule: Schedule, look: _Look, p: Normal | FullNormal) -> Array:
    """Return the mean of (eps_hat - eps)^2, eps_hat the noise that the mean of the step p implies."""
    beta = at(schedule.beta, look.t, look.x_t)
    # E[x_{t-1}] - sqrt(1 - beta_t) x_t, by way of x_t: fine steps hardly move it.
    moved = p.mean_less(look.x_t) + beta / (1 + jnp.sqrt(1 - beta)) * look.x_t
    perturbation = moved / jnp.sqrt(beta)
    guess = predictions.convert(schedule, perturbation, look.x_t, look.t, source="perturbation", target="epsilon")
    return jnp.mean((guess - look.eps) ** 2)


def hybrid(
    key: Array,
    model: Model,
    x_0: Array,
    *,
    edge: Edge = "forward",
    time_sampler: timesteps.TimeSampler = timesteps.low_discrepancy,
    weight: float = HYBRID_WEIGHT,
) -> Array:
    """Return `simple` for the mean, and `weight` times -K a dimension for the variance, from one call of the model.

    K's gradient is confined to the variance; its terms that no variance enters, which have no gradient, are left out.

    Args:
      key: PRNG key.
      model: of a Gaussian process with nu_T finite; its steps are `Normal` or `FullNormal` with a learned variance.
      x_0: [B, ...] data.
      edge: how p(x_0 | x_1) is treated, see `bound`.
      time_sampler: which t.
      weight: of -K in nats a dimension.

    Raises:
      ValueError: if the process is not Gaussian.
    """
    process, x_0 = _gaussian(model), as_float32(x_0, "x_0")
    look = _look(key, model, x_0, edge, time_sampler)
    origin, offset = jax.lax.stop_gradient((look.p.origin, look.p.offset))
    is_full = isinstance(look.p, FullNormal)
    fixed: Any = (
        FullNormal(origin, look.p.scale_tril, offset=offset)
        if is_full
        else Normal(origin, look.p.variance, offset=offset)
    )
    # At t = 1 the posterior is a point; that of t = 2 stands in where its divergence is not used.
    terms = process.posterior(x_0, look.x_t, jnp.minimum(jnp.maximum(look.t, 2), process.num_timesteps)).kl(fixed)
    if edge != "forward":
        terms = jnp.where(look.t == 1, -edge_log_prob(edge, fixed, x_0), terms)
    loss = _noise_error(process.schedule, look, look.p)
    return loss + weight * jnp.mean(look.weight * terms) * x_0.shape[0] / x_0.size


def sample_mse(
    key: Array,
    model: Model,
    x_0: Array,
    *,
    time_sampler: timesteps.TimeSampler = timesteps.low_discrepancy,
) -> Array:
    """Return the squared distance of a draw of the model's step from one of the posterior, averaged over the draws.

        E |x - x'|^2 = |E[x] - E[x']|^2 + tr Var[x] + tr Var[x'],   x ~ q, x' ~ p independent

    For bits it is how often the two differ.

    Args:
      key: PRNG key.
      model: of T > 1 steps.
      x_0: [B, ...] data.
      time_sampler: which t, each counting by its weight.
    """
    process, x_0 = model.process, jnp.asarray(x_0)
    time_key, noise_key = jax.random.split(key)
    num = max(model.num_timesteps - 1, 1)
    draw = time_sampler(time_key, x_0.shape[0], model.num_timesteps)
    t = draw.t
    x_t = process.marginal(x_0, t).sample(noise_key)
    q, p = process.posterior(x_0, x_t, t), model.reverse(x_t, t)
    distance = (q.mean - p.mean) ** 2 + q.variance + p.variance
    return jnp.mean(distance.reshape(len(t), -1).mean(axis=1) * draw.weight) / num

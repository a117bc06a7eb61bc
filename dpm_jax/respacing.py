"""Chains of fewer steps, of the same network: a model looked at only at the times tau_1 < .. < tau_K = T.

The forward chain at these times is again a forward chain, of K steps, with the same q(x_tau | x_0). The
denoiser's law of x_0 given x_t does not know how long a step is; mixed into the posterior of the longer step,

    p(x_{tau_{k-1}} | x_{tau_k}) = integral of q(x_{tau_{k-1}} | x_{tau_k}, x_0) p(x_0 | x_{tau_k}),

it makes the reverse step of the chain of K. So a respaced model is a `Model` as any other, with its K:

    K(tau) = edge(tau_1) - sum_{k=2}^{K} kl(tau_{k-1}, tau_k) - prior.

Each term depends on one step alone. A table of the terms of all pairs of times, `costs`, takes one call of the network
a time, and the best subsequence of each length is the shortest path through it: `optimal`, by
dynamic programming (Watson et al. 2021, "Learning to efficiently sample from diffusion probabilistic
models"; there for independent normals, here for every process and law).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dpm_jax import bound, coloured
from dpm_jax.distributions import Bernoulli, FullNormal, Normal
from dpm_jax.model import Model, forward_edge
from dpm_jax.numerics.small_matrices import principal_axes
from dpm_jax.processes import Binomial, Gaussian
from dpm_jax.schedules import Schedule

__all__ = [
    "Costs",
    "Optimum",
    "cost_of",
    "costs",
    "optimal",
    "optimal_all",
    "quadratic",
    "respace",
    "subschedule",
    "uniform",
]


# Numbers of x that the terms of one block of the table are computed from: they stay in the cache.
_BLOCK = 2**15


class Costs(NamedTuple):
    """The terms of -K of every chain that visits some of these times, nats, means over examples.

    Attributes:
      times: int32 [n] candidates, increasing; the last is T.
      edge: [n] minus the edge term of a chain whose first time is times[i].
      kl: [n, n] KL(q(x_s | x_t, x_0) || p(x_s | x_t)) at [i, j], s = times[i] < t = times[j]; elsewhere +inf.
      prior: KL(q(x_T | x_0) || p(x_T)), the same for all.
    """

    times: Array
    edge: Array
    kl: Array
    prior: Array


class Optimum(NamedTuple):
    """The best chain of a length, by a table. times: int [K], increasing to T. cost: -K of the bound, nats."""

    times: np.ndarray
    cost: float


# --- Which times ---


def _check_num(num: int, most: int) -> None:
    if not 1 <= num <= most:
        raise ValueError(f"num: must lie in 1..{most}, got {num}")


def uniform(num_timesteps: int, num: int) -> np.ndarray:
    """Return times evenly from 1 to T, both of them included; the last alone if num = 1.

    Args:
      num_timesteps: T.
      num: how many, K.

    Returns:
      int [K], increasing.

    Raises:
      ValueError: if num is outside 1..T.
    """
    _check_num(num, num_timesteps)
    if num == 1:
        return np.asarray([num_timesteps])
    # Rounded in integers: spaced by at least 1, no two fall together.
    gaps = num - 1
    times: np.ndarray = 1 + (2 * (num_timesteps - 1) * np.arange(num) + gaps) // (2 * gaps)
    return times


def quadratic(num_timesteps: int, num: int) -> np.ndarray:
    """Return times that grow as squares from 1 to T, dense near the data (Song et al. 2021, DDIM, appendix D.2).

    Where rounding would make two of them one, they are neighbours.

    Args:
      num_timesteps: T.
      num: how many, K.

    Returns:
      int [K], increasing.

    Raises:
      ValueError: if num is outside 1..T.
    """
    _check_num(num, num_timesteps)
    if num == 1:
        return np.asarray([num_timesteps])
    index = np.arange(num)
    squares = np.rint(1 + (num_timesteps - 1) * (index / (num - 1)) ** 2).astype(int)
    # The square less the index is convex, so that its running maximum does not pass T - (K - 1), where it ends.
    times: np.ndarray = np.maximum.accumulate(squares - index) + index
    return times


def _check_times(name: str, times: np.ndarray, num_timesteps: int) -> np.ndarray:
    times = np.asarray(times)
    if times.ndim != 1 or times.size < 1 or not np.issubdtype(times.dtype, np.integer):
        raise ValueError(f"{name}: must be a list of integers, got shape {times.shape}, dtype {times.dtype}")
    if times[0] < 1 or not (np.diff(times) > 0).all() or times[-1] != num_timesteps:
        shown = ", ".join(map(str, times[:6])) + (", ..." if len(times) > 6 else "")
        raise ValueError(f"{name}: must increase within 1..{num_timesteps} and end there, got {shown}")
    return times


def _at(schedule: Schedule, index: Array | np.ndarray, log_nsr_step: Array) -> Schedule:
    """Return the levels at these indices, with the given steps between them: their differences would be rounding."""
    sigma2 = schedule.sigma2[index]
    return Schedule(
        log_nsr=schedule.log_nsr[index],
        log_nsr_step=log_nsr_step,
        alpha_bar=schedule.alpha_bar[index],
        sigma2=sigma2,
        beta=sigma2 * -jnp.expm1(-log_nsr_step),
    )


def subschedule(schedule: Schedule, times: np.ndarray) -> Schedule:
    """Return the same forward chain, looked at only at these times; index 0 stays the data.

    Differentiable in the schedule, which may be a learned one.

    Args:
      schedule: of T steps.
      times: int [K], static, increasing, the last T: so the prior stays what it was.

    Returns:
      `Schedule` of K steps.

    Raises:
      ValueError: if the times are not such.
    """
    times = _check_times("times", times, schedule.num_timesteps)
    # A row a step: the fine steps that it is made of, filled up with index 0, whose step is 0.
    within = times[:-1, None] + 1 + np.arange(np.diff(times).max(initial=1))
    fine = np.where(within <= times[1:, None], np.minimum(within, schedule.num_timesteps), 0)
    steps = schedule.log_nsr_step[fine].sum(axis=1)
    return _at(schedule, np.concatenate([[0], times]), jnp.concatenate([jnp.asarray([0.0, math.inf]), steps]))


def _with_schedule(process: Any, schedule: Schedule) -> Any:
    if not (dataclasses.is_dataclass(process) and isinstance(getattr(process, "schedule", None), Schedule)):
        raise ValueError(f"process: needs a field `schedule` to be respaced; {type(process).__name__} has none")
    return dataclasses.replace(process, schedule=schedule)  # type: ignore[type-var]


def respace(model: Model, times: np.ndarray, *, edge: bound.Edge = "forward") -> Model:
    """Return the model as a chain of fewer steps, at these times.

    With all times it is the mixture over the denoiser.

    Args:
      model: a process with a field `schedule`, and a denoiser.
      times: int [K], static, increasing, the last T.
      edge: "forward" for p(x_0 | x_{tau_1}) the forward kernel of the new chain, whatever the model says there;
        "decoder" for its law of x_0.

    Returns:
      `Model`, its times 1..K.

    Raises:
      ValueError: if the times are not such, `edge` is neither, or the model has no denoiser.
    """
    bound.check_edge(edge)
    _check_denoiser(model)
    process: Any = model.process
    short = _with_schedule(process, subschedule(process.schedule, times))
    at_step = jnp.asarray(np.concatenate([[0], times]), jnp.int32)
    fewer = Model(short, lambda x, k: model.denoised(x, at_step[k]))
    return forward_edge(fewer) if edge == "forward" else fewer


def _check_denoiser(model: Model) -> None:
    if model.denoise is None:
        raise ValueError("model: is given by its reverse steps alone, whose length is fixed; a denoiser is needed")


# --- The best times ---


def _own_axes(process: Any, law: Any, x_0: Array, x_t: Array) -> tuple[Any, Array, Array]:
    """Return law, x_0 and x_t in the form that costs least: images as vectors, full covariances along their axes.

    In Gaussian diffusion the noise is the same in all directions, so that no KL changes; 2 x 2 matrices cost far more
    than their entries, and loops over a last axis of one channel are many times slower.
    """
    if isinstance(process, Gaussian | Binomial) and x_0.ndim > 2:

        def flat(x: Array) -> Array:
            return x.reshape(x.shape[0], -1)

        is_bits = isinstance(law, Bernoulli)
        law = Bernoulli(flat(law.logits)) if is_bits else Normal(flat(law.mean), flat(law.variance))
        return law, flat(x_0), flat(x_t)
    if not (isinstance(process, Gaussian) and isinstance(law, FullNormal)):
        return law, x_0, x_t
    axes, scale = principal_axes(law.scale_tril)

    def turned(x: Array) -> Array:
        return (axes * x[:, :, None]).sum(axis=1)

    return Normal(turned(law.mean), scale**2), turned(x_0), turned(x_t)


def costs(
    key: Array,
    model: Model,
    x_0: Array,
    *,
    edge: bound.Edge = "forward",
    candidates: np.ndarray | None = None,
) -> Costs:
    """Return the terms of K of all subsequences of these times, from one call of the network a time.

    Args:
      key: PRNG key of the noise: one draw an example.
      model: a process with a field `schedule`, and a denoiser.
      x_0: [B, ...] data; not those that K is then evaluated on, or it will look better than it is.
      edge: as of `respace`.
      candidates: int [n], static, increasing, the last T; all of 1..T if None. Time and memory go with n^2.

    Raises:
      ValueError: if the candidates are not such, `edge` is neither, or the model has no denoiser.
    """
    bound.check_edge(edge)
    _check_denoiser(model)
    process: Any = model.process
    if isinstance(process, coloured.Coloured):
        # No KL changes, and the edge's log-density changes by a constant.
        found = process.spectrum
        white = costs(key, coloured.in_white(model), found.whiten(x_0), edge=edge, candidates=candidates)
        return white._replace(edge=white.edge - found.log_det(x_0.shape))
    schedule, num_timesteps = process.schedule, process.num_timesteps
    chosen = np.arange(1, num_timesteps + 1) if candidates is None else candidates
    times = jnp.asarray(_check_times("candidates", chosen, num_timesteps), jnp.int32)
    x_0 = jnp.asarray(x_0)
    num, batch = len(times), x_0.shape[0]
    block = min(num, max(1, _BLOCK // x_0.size))
    num_blocks = -(-num // block)

    def to_time(_: None, j: Array) -> tuple[None, tuple[Array, Array]]:
        """Return the terms of steps down from times[j], and of a chain that begins there."""
        t = jnp.full(batch, times[j])
        # The same noise at all times: terms of neighbours err alike, and none is chosen for its luck.
        x_t = process.marginal(x_0, t).sample(key)
        denoised = model.denoised(x_t, t)
        if edge == "forward":
            edge_term = bound.forward_edge_term(process, x_0, t)
        else:
            edge_term = bound.edge_log_prob(edge, denoised, x_0)
        law, start, x_t = _own_axes(process, denoised, x_0, x_t)
        # Summed from t down, one by one; [s + 1] is log nu_t - log nu_s.
        index = jnp.arange(num_timesteps + 2)
        padded = jnp.append(schedule.log_nsr_step, 0.0)
        fall = jax.lax.cumsum(jnp.where((index >= 2) & (index <= times[j]), padded, 0.0), reverse=True)

        def divergence(i: Array) -> Array:
            s = times[jnp.minimum(i, num - 1)]
            levels = _at(schedule, jnp.stack([jnp.zeros_like(s), s, times[j]]), jnp.stack([0.0, math.inf, fall[s + 1]]))
            last = jnp.full(1, 2, jnp.int32)  # the same for all examples: its coefficients are computed once
            pair = _with_schedule(process, levels)
            kl = jnp.mean(pair.posterior(start, x_t, last).kl(pair.posterior(law, x_t, last)))
            return jnp.where(i < j, kl, jnp.inf).astype(jnp.float32)

        def of_block(first: Array) -> Array:
            result: Array = jax.lax.cond(
                first < j,
                jax.vmap(divergence),
                # An infinity of the other branch's type, however that is spread.
                lambda index: jnp.where(index < 0, jnp.mean(edge_term), jnp.inf).astype(jnp.float32),
                first + jnp.arange(block),
            )
            return result

        column = jax.lax.map(of_block, block * jnp.arange(num_blocks)).reshape(-1)[:num]
        return None, (-jnp.mean(edge_term), column)

    _, (edges, columns) = jax.lax.scan(to_time, None, jnp.arange(num))
    return Costs(times, edges, columns.T, jnp.mean(bound.prior_term(process, x_0)))


def cost_of(costs: Costs, times: np.ndarray) -> float:
    """-K of the chain at these times, by the table, nats.

    Args:
      costs: of a model.
      times: int [K], increasing, of the candidates; the last T.

    Raises:
      ValueError: if they are not such.
    """
    candidates = np.asarray(costs.times)
    times = _check_times("times", times, int(candidates[-1]))
    if len(strange := np.setdiff1d(times, candidates)):
        raise ValueError(f"times: {strange[0]} is none of the table's candidates")
    index = np.searchsorted(candidates, times)
    edge, kl = (np.asarray(values, np.float64) for values in (costs.edge, costs.kl))
    return float(edge[index[0]] + kl[index[:-1], index[1:]].sum() + float(costs.prior))


def optimal_all(costs: Costs, most: int | None = None) -> list[Optimum]:
    """Return the best chains of 1, 2, .. `most` steps, in one go.

    By dynamic programming in float64: the best chain of k steps that ends at t is, but for its last step, the best
    of k - 1 steps that ends at some s < t. Time and memory go with most * n^2 and most * n.

    Args:
      costs: of a model, n candidates.
      most: n if None.

    Returns:
      list of `Optimum`, that of k steps at [k - 1].

    Raises:
      ValueError: if most is outside 1..n.
    """
    times = np.asarray(costs.times)
    most = len(times) if most is None else most
    _check_num(most, len(times))
    # A cost that is no number is of a step that no chain should take. By rows of where a step ends: contiguous minima.
    edge, kl = (np.nan_to_num(np.asarray(v, np.float64), nan=np.inf, posinf=np.inf) for v in (costs.edge, costs.kl.T))
    best, before = [edge], [np.zeros(len(times), int)]
    for _ in range(1, most):
        through = best[-1] + kl
        before.append(np.argmin(through, axis=1))
        best.append(np.take_along_axis(through, before[-1][:, None], axis=1)[:, 0])
    found = []
    for k in range(most):
        index = [len(times) - 1]
        for step in range(k, 0, -1):
            index.append(int(before[step][index[-1]]))
        found.append(Optimum(times[index[::-1]], float(best[k][-1] + float(costs.prior))))
    return found


def optimal(costs: Costs, num: int) -> Optimum:
    """Return the best chain of exactly `num` steps; for several lengths, `optimal_all`.

    Args:
      costs: of a model, n candidates.
      num: K.

    Raises:
      ValueError: if num is outside 1..n.
    """
    return optimal_all(costs, num)[-1]

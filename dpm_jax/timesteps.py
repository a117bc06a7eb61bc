"""Which t to look at when the sum over t of equation 14 is estimated from a few.

Each function draws `num` times t in 2..T and weights w such that for any f

    E[mean_i w_i f(t_i)] = sum_{t=2}^{T} f(t),

so the estimate is unbiased. They differ in variance. (The term at t = 1 is the
edge, which `bound` treats by itself.) The exception is `emphasis`, for losses that are
not the bound.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

__all__ = [
    "TimeDraw",
    "TimeSampler",
    "antithetic",
    "emphasis",
    "importance",
    "low_discrepancy",
    "stderr_of_mean",
    "uniform",
]


class TimeDraw(NamedTuple):
    """t: int32 [num] in 2..T. weight: float32 [num]."""

    t: Array
    weight: Array


# (key, num, num_timesteps) -> TimeDraw
TimeSampler = Callable[[Array, int, int], TimeDraw]


def _from_unit(u: Array, num_timesteps: int) -> TimeDraw:
    """Times for positions u in [0, 1): each t in 2..T owns an equal share."""
    num_terms = num_timesteps - 1
    t = 2 + jnp.minimum((u * num_terms).astype(jnp.int32), max(num_terms - 1, 0))
    # With T = 1 there is no term: t stays in range for indexing and its weight is 0.
    return TimeDraw(jnp.minimum(t, num_timesteps), jnp.full(u.shape, num_terms, jnp.float32))


def uniform(key: Array, num: int, num_timesteps: int) -> TimeDraw:
    """Independent t, uniform in 2..T."""
    return _from_unit(jax.random.uniform(key, (num,)), num_timesteps)


def antithetic(key: Array, num: int, num_timesteps: int) -> TimeDraw:
    """Pairs (u, 1 - u) of uniform positions, next to each other in the batch."""
    u = jax.random.uniform(key, ((num + 1) // 2,))
    pairs = jnp.stack([u, 1 - u], axis=1).reshape(-1)[:num]
    return _from_unit(pairs, num_timesteps)


def low_discrepancy(key: Array, num: int, num_timesteps: int) -> TimeDraw:
    """One random offset, then an even grid over 2..T (Kingma et al. 2021, appendix I.1).

    In order of position around the circle, so that neighbours in the batch are neighbours in t.
    """
    u = (jax.random.uniform(key) + jnp.arange(num) / num) % 1.0
    return _from_unit(u, num_timesteps)


def importance(probabilities: Array) -> TimeSampler:
    """Independent t with the given probabilities; best when proportional to the root mean square of the term.

    Args:
      probabilities: [T + 1], positive at 2..T; entries 0 and 1 are not used. Normalised here.

    Raises:
      ValueError: on drawing, if there are not T + 1 of them.
    """

    def draw(key: Array, num: int, num_timesteps: int) -> TimeDraw:
        if probabilities.shape != (num_timesteps + 1,):
            raise ValueError(f"probabilities: must have shape {(num_timesteps + 1,)}, got {probabilities.shape}")
        p = probabilities[2:] / probabilities[2:].sum()
        index = jax.random.categorical(key, jnp.log(p), shape=(num,))
        return TimeDraw((2 + index).astype(jnp.int32), 1 / p[index])

    return draw


def emphasis(weights: Array) -> TimeSampler:
    """For a loss in which some t count more than in K: t is drawn in proportion to its weight, and not corrected for.

    E[mean_i w_i f(t_i)] = (T - 1) sum_t p_t f(t), p_t the weights divided by their sum over 2..T:
    the sum itself where all are alike. Positions as in `low_discrepancy`.

    Args:
      weights: [T + 1], positive at 2..T; entries 0 and 1 are not used.

    Raises:
      ValueError: on drawing, if there are not T + 1 of them.
    """

    def draw(key: Array, num: int, num_timesteps: int) -> TimeDraw:
        if weights.shape != (num_timesteps + 1,):
            raise ValueError(f"weights: must have shape {(num_timesteps + 1,)}, got {weights.shape}")
        u = (jax.random.uniform(key) + jnp.arange(num) / num) % 1.0
        cumulative = jnp.cumsum(weights[2:])
        t = 2 + jnp.searchsorted(cumulative, u * cumulative[-1], side="right")
        return TimeDraw(jnp.minimum(t, num_timesteps).astype(jnp.int32), jnp.full(num, num_timesteps - 1, jnp.float32))

    return draw


def stderr_of_mean(values: Array, sampler: TimeSampler) -> Array:
    """Standard error of the mean of one estimate an example, values [num], drawn by `sampler`.

    Independent t: the sample variance. Pairs: the variance of pair means. An even grid:
    successive differences (Wolter 1985, chapter 8), which leave out the smooth trend in t
    that the grid integrates.
    """
    num = values.shape[0]
    if sampler is antithetic and num >= 4:
        values = values[: num - num % 2].reshape(-1, 2).mean(axis=1)
    if sampler is low_discrepancy:
        difference = values - jnp.roll(values, 1)
        return jnp.sqrt(0.5 * jnp.mean(difference**2) / num)
    return jnp.std(values, ddof=1) / jnp.sqrt(values.shape[0])

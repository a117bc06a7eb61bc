"""Samplers of the times t from which the sum over t of equation 14 is estimated.

Each function draws `num` times t in 2..T and weights w such that for any f

    E[mean_i w_i f(t_i)] = sum_{t=2}^{T} f(t),

so the estimate is unbiased. They differ in variance. (The term at t = 1 is the
edge, which `bound` treats by itself.) The exception is `emphasis`, for losses that are
not the bound.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dpm_jax.numerics.systematic import places

__all__ = [
    "Design",
    "TimeDraw",
    "TimeSampler",
    "TimeTable",
    "antithetic",
    "continuous",
    "emphasis",
    "importance",
    "low_discrepancy",
    "probabilities",
    "record",
    "stderr_of_mean",
    "table",
    "uniform",
]


# How the draws of one call depend on each other: not at all; 2i and 2i + 1 are a pair; or they lie in order on an
# even grid of positions with a random offset, the last beside the first.
Design = Literal["independent", "pairs", "grid"]


@partial(jax.tree_util.register_dataclass, data_fields=("t", "weight"), meta_fields=("design",))
@dataclasses.dataclass(frozen=True)
class TimeDraw:
    """Times, their weights, and what `stderr_of_mean` needs to know of how they were drawn.

    Attributes:
      t: int32 [num] in 2..T; of `continuous`, float32 in [1, T].
      weight: float32 [num].
      design: how the draws depend on each other; static.
    """

    t: Array
    weight: Array
    design: Design = "independent"


# (key, num, num_timesteps) -> TimeDraw
TimeSampler = Callable[[Array, int, int], TimeDraw]


def _from_unit(u: Array, num_timesteps: int, design: Design) -> TimeDraw:
    """Return the times at positions u in [0, 1): each t in 2..T owns an equal share."""
    num_terms = num_timesteps - 1
    t = 2 + jnp.minimum((u * num_terms).astype(jnp.int32), max(num_terms - 1, 0))
    # With T = 1 there is no term: t stays in range for indexing and its weight is 0.
    return TimeDraw(jnp.minimum(t, num_timesteps), jnp.full(u.shape, num_terms, jnp.float32), design)


def uniform(key: Array, num: int, num_timesteps: int) -> TimeDraw:
    """Draw independent t, uniform in 2..T."""
    return _from_unit(jax.random.uniform(key, (num,)), num_timesteps, "independent")


def antithetic(key: Array, num: int, num_timesteps: int) -> TimeDraw:
    """Draw pairs (u, 1 - u) of uniform positions, the two of a pair next to each other."""
    u = jax.random.uniform(key, ((num + 1) // 2,))
    pairs = jnp.stack([u, 1 - u], axis=1).reshape(-1)[:num]
    return _from_unit(pairs, num_timesteps, "pairs")


def low_discrepancy(key: Array, num: int, num_timesteps: int) -> TimeDraw:
    """Draw one random offset, and from it an even grid over 2..T (Kingma et al. 2021, appendix I.1).

    In order of position around the circle, so that neighbours are neighbours in t.
    """
    u = (jax.random.uniform(key) + jnp.arange(num) / num) % 1.0
    return _from_unit(u, num_timesteps, "grid")


def continuous(key: Array, num: int, num_timesteps: int) -> TimeDraw:
    """Draw real t in [1, T], as `low_discrepancy`: E[mean_i w_i f(t_i)] is the integral of f from 1 to T."""
    u = (jax.random.uniform(key) + jnp.arange(num) / num) % 1.0
    return TimeDraw(1 + u * (num_timesteps - 1), jnp.full(num, num_timesteps - 1, jnp.float32), "grid")


def importance(probabilities: Array, *, real: bool = False) -> TimeSampler:
    """Draw t with the given probabilities; best when proportional to the root mean square of the term.

    Positions are an even grid with one random offset, as in `low_discrepancy`, here of the running sum of the
    probabilities. For `bound.limit` that has the effect of a schedule whose levels between the ends are learned by the
    variance of K (Kingma et al. 2021, VDM, appendix I.2): the integral does not depend on them, its estimate does.

    Args:
      probabilities: [T + 1], positive at 2..T; entries 0 and 1 are not used. Normalised here.
      real: real times in [1, T], uniform between t - 1 and t, in place of t.

    Raises:
      ValueError: on drawing, if there are not T + 1 of them.
    """

    def draw(key: Array, num: int, num_timesteps: int) -> TimeDraw:
        t, within = _along(key, "probabilities", probabilities, num, num_timesteps)
        if num_timesteps == 1:
            return TimeDraw(t.astype(jnp.float32) if real else t, jnp.zeros(num), "grid")
        weight = probabilities[2:].sum() / probabilities[t]
        return TimeDraw((t - 1).astype(jnp.float32) + within if real else t, weight, "grid")

    return draw


def _along(key: Array, name: str, shares: Array, num: int, num_timesteps: int) -> tuple[Array, Array]:
    """Return t in 2..T in proportion to shares [T + 1], and the part of t's share before each position."""
    if shares.shape != (num_timesteps + 1,):
        raise ValueError(f"{name}: must have shape {(num_timesteps + 1,)}, got {shares.shape}")
    # As in `low_discrepancy`, the first position of the batch is uniform, and the others follow around the circle.
    start = num * jax.random.uniform(key)
    first = min(2, num_timesteps)  # with T = 1 there is no term, and the weight is 0
    turn = -jnp.floor(start).astype(jnp.int32)
    index, within = (jnp.roll(a, turn) for a in places(start % 1, shares[first:], num))
    return first + index, within


class TimeTable(NamedTuple):
    """A running table of the terms, for `importance`; neighbours in t share an entry where T is large.

    Attributes:
      square: [T + 1] decayed mean of the squared term at each t.
      visits: [T + 1] how often t, or a neighbour that it shares with, was seen.
    """

    square: Array
    visits: Array


# What is kept of the mean squares at a visit; and visits of every t before the table is believed, as Nichol &
# Dhariwal (2021, section 3.3) have it.
_DECAY, _VISITS = 0.9, 10
# Entries of a table at most: a few hundred draws then tell them all.
_ENTRIES = 64
# Of all draws, those that are uniform whatever the table says: a term that has grown since is found out.
_UNIFORM = 0.1


def table(num_timesteps: int) -> TimeTable:
    """Return a table of which nothing is known yet."""
    return TimeTable(jnp.zeros(num_timesteps + 1), jnp.zeros(num_timesteps + 1))


def _first_of_entry(size: int) -> np.ndarray:
    """Return for each t in 0..T the first t that shares its entry of a table of this size, T + 1."""
    num_terms, t = size - 2, np.arange(size)
    entry = (t - 2) * min(num_terms, _ENTRIES) // max(num_terms, 1)
    return np.where(t < 2, t, 2 + np.searchsorted(entry[2:], entry))


def record(table: TimeTable, t: Array, values: Array) -> TimeTable:
    """Return the table with terms `values` [B] seen at t [B] in it. Terms that are not finite are left out.

    A real t, of `bound.limit`, counts as the step that it lies in, the next whole t.
    """
    first = _first_of_entry(table.visits.shape[0])
    at = jnp.asarray(first)[jnp.clip(jnp.ceil(t).astype(jnp.int32), 2, len(first) - 1)]
    seen = jnp.isfinite(values)
    new = jnp.zeros_like(table.visits).at[at].add(seen.astype(table.visits.dtype))[first]
    total = jnp.zeros_like(table.square).at[at].add(jnp.where(seen, values, 0.0) ** 2)[first]
    # Visits in one batch are averaged; the first mean is taken as it is.
    keep = jnp.where(table.visits == 0, 0.0, _DECAY**new)
    mean = total / jnp.maximum(new, 1)
    square = jnp.where(new > 0, keep * table.square + (1 - keep) * mean, table.square)
    return TimeTable(square, table.visits + new)


def probabilities(table: TimeTable) -> Array:
    """Return probabilities for `importance`, [T + 1]: as the root mean square, or uniform until all t are known."""
    rms = jnp.sqrt(table.square[2:])
    num = max(rms.shape[0], 1)
    known = (table.visits[2:] >= _VISITS).all() & (rms.sum() > 0)
    shares = (1 - _UNIFORM) * rms / jnp.where(known, rms.sum(), 1.0) + _UNIFORM / num
    return jnp.concatenate([jnp.zeros(2), jnp.where(known, shares, 1 / num)])


def emphasis(weights: Array) -> TimeSampler:
    """Return draws in proportion to weights, not corrected for, of a loss in which some t count more than in K.

    E[mean_i w_i f(t_i)] = (T - 1) sum_t p_t f(t), p_t the weights divided by their sum over 2..T:
    the sum itself where all are alike. Positions as in `low_discrepancy`.

    Args:
      weights: [T + 1], not negative at 2..T; entries 0 and 1 are not used.

    Raises:
      ValueError: on drawing, if there are not T + 1 of them.
    """

    def draw(key: Array, num: int, num_timesteps: int) -> TimeDraw:
        t, _ = _along(key, "weights", weights, num, num_timesteps)
        return TimeDraw(t, jnp.full(num, num_timesteps - 1, jnp.float32), "grid")

    return draw


def stderr_of_mean(values: Array, design: Design) -> Array:
    """Return the standard error of the mean of `values`, one for each draw of a `TimeDraw`, in its order.

    The values may depend on examples, too, if these are independent draws of one law, dealt to the times at random.

        independent  the sample variance
        pairs        the variance of the sums of pairs; one that is left over counts as a pair of one
        grid         successive differences (Wolter 1985, chapter 8), which leave out the smooth trend in t that the
                     grid integrates

    Args:
      values: [num].
      design: of the draw.

    Returns:
      Scalar; NaN where there are not two values, or two pairs, to compare.
    """
    num = values.shape[0]
    if design == "grid":
        squares, units = 0.5 * (values - jnp.roll(values, 1)) ** 2, num
    else:
        residuals = values - jnp.mean(values)
        if design == "pairs":
            residuals = jnp.pad(residuals, (0, num % 2)).reshape(-1, 2).sum(axis=1)
        units = residuals.shape[0]
        squares = residuals**2 * units / max(units - 1, 1)
    return jnp.sqrt(squares.sum()) / num if units > 1 else jnp.full((), jnp.nan)

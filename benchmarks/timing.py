"""Wall times of functions, taken in turn, so that a machine whose speed drifts drifts for all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple

import jax

__all__ = ["Timing", "in_turn", "seconds", "settled"]


class Timing(NamedTuple):
    """Times of some functions.

    Attributes:
      medians: seconds, one a function.
      ratios: of each function to the last: the median of the ratios within a round.
    """

    medians: list[float]
    ratios: list[float]


def seconds(function: Callable[[], Any]) -> float:
    """Wall time of one call, until its results are there."""
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def in_turn(functions: Sequence[Callable[[], Any]], repeats: int) -> Timing:
    """Call each once unmeasured, and then all in turn, in the given number of rounds."""
    for function in functions:
        seconds(function)
    rounds = [[seconds(function) for function in functions] for _ in range(repeats)]
    return settled(rounds)


def settled(rounds: Sequence[Sequence[float]]) -> Timing:
    """From seconds [rounds, functions]."""
    columns = list(zip(*rounds, strict=True))
    return Timing(
        [median(column) for column in columns],
        [median(row[i] / row[-1] for row in rounds) for i in range(len(columns))],
    )

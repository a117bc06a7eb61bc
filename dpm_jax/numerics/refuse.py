"""Refusals of bad arguments, in one line each: what is wrong, and what would be accepted."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

__all__ = ["at_least_one", "nearest", "one_of", "widths", "within"]


def nearest(name: object, names: Iterable[str]) -> str:
    """Return '; did you mean NAME?' of the name that is nearest, or nothing where none is near."""
    close = difflib.get_close_matches(str(name), list(names), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def one_of(name: str, value: object, names: Iterable[str]) -> None:
    """Refuse a value that is none of these names.

    Raises:
      ValueError: with the nearest of them.
    """
    known = list(names)
    if value not in known:
        raise ValueError(f"{name}: must be one of {', '.join(known)}, got {value!r}{nearest(value, known)}")


def at_least_one(**values: float) -> None:
    """Refuse numbers below 1.

    Raises:
      ValueError: naming the first that is.
    """
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name}: must be at least 1, got {value}")


def within(intervals: str, **values: float) -> None:
    """Refuse values outside an interval, written as in mathematics: "[0, 1)" holds 0 and not 1.

    Raises:
      ValueError: naming the first that lies outside.
    """
    low, high = (float(end) for end in intervals[1:-1].split(","))
    for name, value in values.items():
        above = value >= low if intervals[0] == "[" else value > low
        if not (above and (value <= high if intervals[-1] == "]" else value < high)):
            raise ValueError(f"{name}: must lie in {intervals}, got {value}")


def widths(name: str, values: Any) -> None:
    """Refuse anything but a sequence of one or more positive integers.

    Raises:
      ValueError: if it is something else.
    """
    good = isinstance(values, tuple | list) and values and all(isinstance(v, int) and v > 0 for v in values)
    if not good:
        raise ValueError(f"{name}: must be positive widths, got {values!r}")

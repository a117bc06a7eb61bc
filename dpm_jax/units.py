"""Units. Everything inside is in nats; this is where they become bits.

    bits            = nats / log 2
    bits/dimension  = bits / (number of dimensions of one example)
"""

from __future__ import annotations

import math
from typing import TypeVar

__all__ = ["bits", "bits_per_dimension", "nats"]

Number = TypeVar("Number")


def bits(value: Number) -> Number:
    """Nats to bits; a number or an array of any shape."""
    return value / math.log(2.0)  # type: ignore[operator]


def nats(value: Number) -> Number:
    """Bits to nats; a number or an array of any shape."""
    return value * math.log(2.0)  # type: ignore[operator]


def bits_per_dimension(value: Number, shape: tuple[int, ...]) -> Number:
    """Nats an example to bits a dimension, for examples of shape `shape`."""
    return bits(value) / math.prod(shape)  # type: ignore[operator]

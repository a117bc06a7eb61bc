"""Units. Everything inside is in nats; this is where they become bits.

    bits            = nats / log 2
    bits/dimension  = bits / (number of dimensions of one example)

Each function takes numbers or arrays of any shape and returns the same.
"""

from __future__ import annotations

import math
from typing import Any

__all__ = ["bits", "bits_per_dimension", "nats"]


def bits(value: Any) -> Any:
    """Nats to bits."""
    return value / math.log(2.0)


def nats(value: Any) -> Any:
    """Bits to nats."""
    return value * math.log(2.0)


def bits_per_dimension(value: Any, shape: tuple[int, ...]) -> Any:
    """Nats an example to bits a dimension, for examples of shape `shape`."""
    return bits(value) / math.prod(shape)

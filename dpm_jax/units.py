"""Units. Everything inside is in nats an example; this is where they become bits.

    bits              = nats / log 2
    bits/pixel        = bits / (H W), for images [H, W, C]: channels together, as the paper counts
    bits/dimension    = bits / (H W C)
    discrete bits/dim = log2(scale) - bits/dimension of K

The last is the code length of 8-bit pixels v, of which the model sees x = (v + u - mean) / scale,
u uniform on [0, 1). With p_v the density of v + u, log P(v) = log E_u p_v(v + u) >= E_u log p_v(v + u)
(Theis et al. 2016, section 3.1), and p_v(v + u) = p_x(x) / scale in each dimension; so
-E log2 P(v) <= D log2(scale) - K, D dimensions.

Functions take numbers or arrays of any shape and return the same.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["bits", "bits_per_dimension", "bits_per_part", "discrete_bits_per_dimension", "nats", "num_parts"]


def bits(value: Any) -> Any:
    """Nats to bits."""
    return value / math.log(2.0)


def nats(value: Any) -> Any:
    """Bits to nats."""
    return value * math.log(2.0)


def num_parts(shape: tuple[int, ...]) -> int:
    """Return the divisor of K: the number of pixels for images of shape (H, W, C), and 1 for other examples."""
    return shape[0] * shape[1] if len(shape) == 3 else 1


def bits_per_part(value: Any, shape: tuple[int, ...]) -> Any:
    """Nats an example to bits a pixel for images of shape (H, W, C), and bits an example for others; in float64."""
    return bits(np.asarray(value, np.float64)) / num_parts(shape)


def bits_per_dimension(value: Any, shape: tuple[int, ...]) -> Any:
    """Nats an example to bits a dimension, for examples of shape `shape`."""
    return bits(value) / math.prod(shape)


def discrete_bits_per_dimension(value: Any, scale: Any, shape: tuple[int, ...]) -> Any:
    """K in nats an example, of dequantised pixels, to the discrete bits a dimension that it bounds from above.

    Args:
      value: K of the standardised, dequantised data.
      scale: pixel steps in one unit of x, broadcasting to `shape`.
      shape: of one example.
    """
    return float(np.mean(np.log2(np.asarray(scale, np.float64)))) - bits_per_dimension(value, shape)

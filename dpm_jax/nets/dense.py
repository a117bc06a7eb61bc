"""Dense layers whose bias is added, and its gradient summed, in float32.

In Flax's a bias takes the layer's dtype, and so does the sum over examples and positions that its gradient is: of
bfloat16 numbers, which have 8 bits, such a sum stops growing after some hundred equal terms.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
from flax.linen.dtypes import promote_dtype
from jax import Array

__all__ = ["Dense"]


def _bias_apart(inputs: Array, kernel: Array, bias: Array | None, *, dtype: Any = None) -> Any:
    return *promote_dtype(inputs, kernel, dtype=dtype), bias


class Dense(nn.DenseGeneral):
    """Flax's `DenseGeneral` with a float32 bias; returns `dtype`, or that of its input where it is None."""

    promote_dtype: Any = _bias_apart

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        outputs: Array = super().__call__(inputs)
        return outputs.astype(self.dtype or inputs.dtype)

"""How a network depends on t: smooth bumps of time, or a readout of its own for every t."""

from __future__ import annotations

import flax.linen as nn
from jax import Array

__all__ = ["PerTimestepReadout"]


class PerTimestepReadout(nn.Module):
    """A linear layer with weights of its own at each t (paper, appendix D.1).

    Called with hidden [B, h] and t int32 [B] in 1..T; returns [B, num_outputs].
    Zero at initialisation.

    Attributes:
      num_timesteps: T.
      num_outputs: outputs an example.
    """

    num_timesteps: int
    num_outputs: int

    @nn.compact
    def __call__(self, hidden: Array, t: Array) -> Array:
        shape = (self.num_timesteps, hidden.shape[-1], self.num_outputs)
        weights = self.param("kernel", nn.initializers.zeros, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.num_timesteps, self.num_outputs))
        return (hidden[:, None, :] @ weights[t - 1])[:, 0] + bias[t - 1]

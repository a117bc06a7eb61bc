"""How a network depends on t: smooth bumps of time, or a separate readout for every t."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

__all__ = ["BumpReadout", "PerTimestepReadout"]


class PerTimestepReadout(nn.Module):
    """A linear layer with separate weights at each t (paper, appendix D.1).

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
        num_hidden = hidden.shape[-1]
        # All weights of a t in one row: CPUs go through long rows twice as fast, and an optimizer goes at every step.
        shape = (self.num_timesteps, num_hidden * self.num_outputs)
        weights = self.param("kernel", nn.initializers.zeros, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.num_timesteps, self.num_outputs))
        of_t = weights[t - 1].reshape(-1, num_hidden, self.num_outputs)
        # A row of zeros beside each example: of a single row XLA makes the product a sum of multiples, into which it
        # pulls the gradient of the loss, on CPUs computed again for each of the hidden units.
        rows = jnp.stack([hidden, jnp.zeros_like(hidden)], axis=1)
        outputs: Array = (rows @ of_t)[:, 0] + bias[t - 1]
        return outputs


class BumpReadout(nn.Module):
    """z_i(t) = sum_j y_ij g_j(t), at every pixel i, with normalised bumps g_j (paper, appendix D.2.2).

    Called with hidden [B, H, W, h] and g(t) [B, J], see `bump_basis`; returns [B, H, W, num_outputs].
    Zero at initialisation.

    Attributes:
      num_outputs: outputs a pixel, z_mu and z_Sigma.
    """

    num_outputs: int

    @nn.compact
    def __call__(self, hidden: Array, bumps: Array) -> Array:
        num_bumps = bumps.shape[-1]
        weights = self.param("kernel", nn.initializers.zeros, (hidden.shape[-1], num_bumps, self.num_outputs))
        bias = self.param("bias", nn.initializers.zeros, (num_bumps, self.num_outputs))
        # All pixels of an image share t: mixing the weights first is one small product an image, not J a pixel.
        mixed = jnp.einsum("bj,hjk->bhk", bumps, weights)
        return jnp.einsum("bxyh,bhk->bxyk", hidden, mixed) + (bumps @ bias)[:, None, None]

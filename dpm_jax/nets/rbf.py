"""The paper's network for the swiss roll (appendix D.1.1)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from dpm_jax.nets.shapes import OfVectors
from dpm_jax.nets.time import PerTimestepReadout
from dpm_jax.numerics import refuse

__all__ = ["RBF"]


class RBF(OfVectors, nn.Module):
    """A normalised radial basis function network with a readout for each t.

    Called with x_t [B, d] and t int32 [B] in 1..T; returns [B, num_outputs], zero at initialisation.

    Attributes:
      num_outputs: outputs an example.
      num_timesteps: T.
      units: how many basis functions.
    """

    num_outputs: int
    num_timesteps: int
    units: int = 16

    def __post_init__(self) -> None:
        refuse.within("[1, inf)", units=self.units)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, t: Array) -> Array:
        centres = self.param("centres", nn.initializers.normal(1.0), (self.units, x.shape[-1]))
        log_width = self.param("log_width", nn.initializers.constant(jnp.log(0.5)), (self.units,))
        distance2 = ((x[:, None, :] - centres) ** 2).sum(-1)
        hidden = jax.nn.softmax(-0.5 * distance2 * jnp.exp(-2 * log_width), axis=-1)
        return PerTimestepReadout(self.num_timesteps, self.num_outputs)(hidden, t)

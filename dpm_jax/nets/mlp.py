"""Multilayer perceptrons for vectors: a small modern one, and the paper's."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from dpm_jax.nets.shapes import OfVectors
from dpm_jax.nets.time import PerTimestepReadout
from dpm_jax.numerics import refuse
from dpm_jax.schedules import bump_basis

__all__ = ["SigmoidMLP", "TimeMLP"]


class TimeMLP(OfVectors, nn.Module):
    """SiLU layers, each scaled and shifted by time (FiLM), on Fourier features of the input.

    Called with x_t [B, d] and t int32 [B]; returns [B, num_outputs], zero at initialisation.

    Attributes:
      num_outputs: outputs an example.
      clock: t -> position in [0, 1], smooth in the noise level.
      features: width of each hidden layer.
      num_bumps: size of the time basis.
      num_frequencies: Fourier features sin(x B), cos(x B); 0 for none.
      frequency_scale: standard deviation of B's entries at initialisation. B is trained.
    """

    num_outputs: int
    clock: Callable[[Array], Array]
    features: tuple[int, ...] = (64, 64, 64)
    num_bumps: int = 10
    num_frequencies: int = 0
    frequency_scale: float = 2.0

    def __post_init__(self) -> None:
        refuse.widths("features", self.features)
        refuse.within("[1, inf)", num_bumps=self.num_bumps)
        refuse.within("[0, inf)", num_frequencies=self.num_frequencies, frequency_scale=self.frequency_scale)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, t: Array) -> Array:
        bumps = bump_basis(self.clock(t), self.num_bumps)
        h = x
        if self.num_frequencies:
            shape = (x.shape[-1], self.num_frequencies)
            angles = x @ self.param("frequencies", nn.initializers.normal(self.frequency_scale), shape)
            h = jnp.concatenate([x, jnp.sin(angles), jnp.cos(angles)], axis=-1)
        for width in self.features:
            h = nn.Dense(width)(h)
            scale, shift = jnp.split(
                nn.Dense(2 * width, use_bias=False, kernel_init=nn.initializers.zeros)(bumps), 2, -1
            )
            h = nn.silu(h * (1 + scale) + shift)
        return nn.Dense(self.num_outputs, kernel_init=nn.initializers.zeros)(h)


class SigmoidMLP(OfVectors, nn.Module):
    """The paper's net for the binary heartbeat: sigmoid layers, a readout for each t (appendix D.1.2).

    Called with x_t [B, d] and t int32 [B] in 1..T; returns [B, num_outputs], zero at initialisation.

    Attributes:
      num_outputs: outputs an example.
      num_timesteps: T.
      features: width of each hidden layer.
    """

    num_outputs: int
    num_timesteps: int
    features: tuple[int, ...] = (50, 50, 50)

    def __post_init__(self) -> None:
        refuse.widths("features", self.features)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, t: Array) -> Array:
        # Inputs of +-1, and weights of 4 / sqrt(n): the slope of a sigmoid at 0 is 1/4.
        h = 2 * x - 1
        for width in self.features:
            h = nn.sigmoid(nn.Dense(width, kernel_init=nn.initializers.variance_scaling(16.0, "fan_in", "normal"))(h))
        return PerTimestepReadout(self.num_timesteps, self.num_outputs)(h - 0.5, t)

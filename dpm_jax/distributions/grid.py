"""A grid of levels, such as those of 8-bit pixels, and the law on it that a density at its levels makes."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from dpm_jax.distributions.normal import Normal
from dpm_jax.numerics import loops

__all__ = ["Grid"]


class Grid(NamedTuple):
    """Equally spaced levels lowest, lowest + width, ..., `num` of them, in the units of x.

    As the treatment of p(x_0 | x_1) in `bound`, `grid.log_prob` makes K a bound on the log-density of data spread
    evenly over the cells about their levels: the log-probability of the levels, less log width for each coordinate.

    Attributes:
      lowest: level.
      width: distance of neighbouring levels.
      num: of levels.
    """

    lowest: float
    width: float
    num: int

    def nearest(self, x: Array) -> Array:
        """Return the level nearest to x, of x's shape; of a dequantised pixel that is the pixel's own."""
        index = jnp.clip(jnp.round((x - self.lowest) / self.width), 0, self.num - 1)
        return self.lowest + self.width * index

    def log_mass(self, p: Normal, x: Array) -> Array:
        """Return the log-probability of levels x, where p's density at the levels is normalised over them, in nats.

        The decoder of Kingma et al. 2021 (VDM, section 3.3), with p's mean and variance in place of z_0 / alpha_0 and
        the noise.

        Args:
          p: coordinates independent.
          x: [*batch, *event], levels.

        Returns:
          [*batch].
        """
        mean, variance = p.mean, p.variance / self.width**2
        where = (mean - self.lowest) / self.width
        # In units of the width, from the nearest level, whose weight is then 1: the sum neither vanishes nor overflows.
        nearest = jnp.clip(jnp.round(where), 0, self.num - 1)
        apart = where - nearest

        def add(total: Array, level: Array) -> tuple[Array, None]:
            offset = level - nearest
            return total + jnp.exp(-0.5 * offset * (offset - 2 * apart) / variance), None

        total, _ = loops.scan(
            jax.checkpoint(add, prevent_cse=False), jnp.zeros(jnp.shape(where)), jnp.arange(self.num, dtype=jnp.float32)
        )
        offset = (x - self.lowest) / self.width - nearest
        log_mass = -0.5 * offset * (offset - 2 * apart) / variance - jnp.log(total)
        return log_mass.sum(axis=tuple(range(-p.event_ndim, 0)))

    def log_prob(self, p: Normal, x: Array) -> Array:
        """Return `log_mass` as a log-density, constant over the cell about each level, [*batch] nats."""
        return self.log_mass(p, x) - math.prod(p.event_shape) * math.log(self.width)

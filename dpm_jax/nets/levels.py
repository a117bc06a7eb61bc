"""Fourier features of grey levels: at the finest noise a network must tell neighbouring levels apart."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from dpm_jax.distributions import Grid

__all__ = ["check_periods", "with_level_features"]


def check_periods(periods: tuple[float, ...], grid: Grid | None) -> None:
    """Refuse periods that are not positive, or where the data have no levels, by a ValueError."""
    if any(not period > 0 for period in periods):
        raise ValueError(f"periods: must be positive, got {periods}")
    if periods and grid is None:
        raise ValueError("periods: are of grey levels, and the data are no 8-bit pixels; leave them empty")


def with_level_features(
    x: Array, t: Array, periods: tuple[float, ...], grid: Grid, log_nsr: Callable[[Array], Array]
) -> Array:
    """Append to each channel of x_t the sine and cosine of its grey level with these periods.

    As in Kingma et al. 2021 (VDM, section 3.4), but damped as noise damps their mean: where it blurs a period, they are
    near 0, not noise.

    Args:
      x: x_t [B, ..., C].
      t: [B].
      periods: of the features, in levels.
      grid: of the data.
      log_nsr: t -> log of the noise-to-signal ratio.

    Returns:
      [B, ..., C (1 + 2 len(periods))].
    """
    nsr = jnp.exp(log_nsr(t)).reshape(-1, *[1] * (x.ndim - 1))
    level = (x * jnp.sqrt(1 + nsr) - grid.lowest) / grid.width
    found = [x]
    for period in periods:
        angle = 2 * jnp.pi / period
        damping = jnp.exp(-0.5 * nsr * (angle / grid.width) ** 2)
        found += [damping * jnp.sin(angle * level), damping * jnp.cos(angle * level)]
    return jnp.concatenate(found, axis=-1)

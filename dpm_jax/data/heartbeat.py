"""The binary heartbeat: a 1 every `period` bits, phase uniform (paper, appendix D.1.2)."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array

from dpm_jax.numerics.threefry import unrolled

__all__ = ["log_prob", "sample", "sequences"]


def _of_phase(phase: Array, length: int, period: int) -> Array:
    return (jnp.arange(length) % period == phase[:, None]).astype(jnp.float32)


def sequences(length: int, period: int) -> Array:
    """All heartbeats, one a phase: [period, length] float32 of 0.0 and 1.0."""
    return _of_phase(jnp.arange(period), length, period)


def sample(key: Array, num: int, length: int, period: int) -> Array:
    """`num` heartbeats of uniform phase, [num, length] float32."""
    return _of_phase(jax.random.randint(unrolled(key), (num,), 0, period), length, period)


def log_prob(x: Array, length: int, period: int) -> Array:
    """Log-probability in nats, [B, length] -> [B]: -log(period) for a heartbeat, else -inf."""
    valid = (x[:, None] == sequences(length, period)).all(-1).any(-1)
    return jnp.where(valid, -math.log(period), -jnp.inf)

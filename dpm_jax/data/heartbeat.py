"""The binary heartbeat: a 1 every `period` bits, phase uniform (paper, appendix D.1.2)."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array

__all__ = ["log_prob", "sample", "sequences"]


def sequences(length: int, period: int) -> Array:
    """All heartbeats, one a phase: [period, length] float32 of 0.0 and 1.0."""
    phase = jnp.arange(period)[:, None]
    return (jnp.arange(length) % period == phase).astype(jnp.float32)


def sample(key: Array, num: int, length: int, period: int) -> Array:
    """`num` heartbeats of uniform phase, [num, length] float32."""
    return sequences(length, period)[jax.random.randint(key, (num,), 0, period)]


def log_prob(x: Array, length: int, period: int) -> Array:
    """Log-probability in nats, [B, length] -> [B]: -log(period) for a heartbeat, else -inf."""
    valid = (x[:, None] == sequences(length, period)).all(-1).any(-1)
    return jnp.where(valid, -math.log(period), -jnp.inf)

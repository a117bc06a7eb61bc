"""The swiss roll: a spiral curve in the plane with normal noise on it, and its exact log-density.

    c(u) = (theta cos theta, theta sin theta), theta = 3/2 pi (1 + 2 u), u uniform in [0, 1]
    x    = (c(u) - mean) / std + noise * n,    n ~ N(0, I)

mean and std are the curve's own, each dimension by itself, so the data have zero mean and
unit variance (and noise^2 more). The density is one integral over u,

    p(x) = int_0^1 N(x; c(u), noise^2 I) du,

done by composite Gauss-Legendre quadrature with panels of two noise widths along the curve.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

__all__ = ["Quadrature", "curve", "log_prob", "mean_log_prob", "quadrature", "sample"]

_START, _LENGTH = 1.5 * math.pi, 3.0 * math.pi


@cache
def _moments() -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the unscaled curve, each [2], float64."""
    nodes, weights = np.polynomial.legendre.leggauss(64)
    theta = _START + _LENGTH * (nodes + 1) / 2
    points = np.stack([theta * np.cos(theta), theta * np.sin(theta)], axis=1)
    mean = weights @ points / 2
    return mean, np.sqrt(weights @ (points - mean) ** 2 / 2)


def curve(u: Array) -> Array:
    """Return the noiseless roll at u in [0, 1]: [...] -> [..., 2]."""
    mean, std = _moments()
    theta = _START + _LENGTH * u
    raw = theta[..., None] * jnp.stack([jnp.cos(theta), jnp.sin(theta)], axis=-1)
    return (raw - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)


def sample(key: Array, num: int, noise: float) -> Array:
    """`num` points of the roll, [num, 2] float32.

    Args:
      key: PRNG key.
      num: how many.
      noise: standard deviation of the noise, in the data's (unit-variance) units.
    """
    position_key, noise_key = jax.random.split(key)
    points = curve(jax.random.uniform(position_key, (num,)))
    return points + noise * jax.random.normal(noise_key, (num, 2))


class Quadrature(NamedTuple):
    """Nodes on the curve, [n, 2], as a float32 and the rest of it, and log-weights [n]."""

    high: Array
    low: Array
    log_weight: Array


def quadrature(noise: float) -> Quadrature:
    """Quadrature for `log_prob` at this noise level; made once, on the host, in float64."""
    mean, std = _moments()
    steepest = (_START + _LENGTH + 1) / std.min() * _LENGTH
    num_panels = max(64, math.ceil(steepest / (2 * noise)))
    nodes, weights = np.polynomial.legendre.leggauss(5)
    left = np.arange(num_panels) / num_panels
    u = (left[:, None] + (nodes + 1) / (2 * num_panels)).reshape(-1)
    theta = _START + _LENGTH * u
    points = (np.stack([theta * np.cos(theta), theta * np.sin(theta)], axis=1) - mean) / std
    high = points.astype(np.float32)
    log_weight = np.log(np.tile(weights / (2 * num_panels), num_panels))
    return Quadrature(*(jnp.asarray(a, jnp.float32) for a in (high, points - high, log_weight)))


def log_prob(x: Array, noise: float, nodes: Quadrature) -> Array:
    """Exact log-density in nats, to about 1e-5, [B, 2] -> [B].

    Args:
      x: [B, 2].
      noise: as in `sample`.
      nodes: `quadrature(noise)`.
    """

    def one(point: Array) -> Array:
        # point - high is exact where it matters (Sterbenz), so low restores float64's nodes.
        z = ((point - nodes.high) - nodes.low) / noise
        return jax.nn.logsumexp(nodes.log_weight - 0.5 * (z**2).sum(-1))

    integral: Array = jax.lax.map(one, x, batch_size=min(64, x.shape[0]))
    return integral - math.log(2 * math.pi * noise**2)


def mean_log_prob(noise: float, nodes: Quadrature) -> Array:
    """E log p(x) = -h(x) in nats, the limit of every K; a scalar, to about 1e-3.

    Deterministic: Gauss-Legendre along the curve, Gauss-Hermite in the noise.

    Args:
      noise: as in `sample`.
      nodes: `quadrature(noise)`.
    """
    along, weight_u = np.polynomial.legendre.leggauss(128)
    normal, weight_n = np.polynomial.hermite_e.hermegauss(8)
    n_1, n_2 = np.meshgrid(normal, normal, indexing="ij")
    offsets = noise * np.stack([n_1, n_2], axis=-1).reshape(-1, 2)
    points = curve(jnp.asarray((along + 1) / 2, jnp.float32))[:, None] + jnp.asarray(offsets, jnp.float32)
    weight = np.outer(weight_u / 2, np.outer(weight_n, weight_n) / (2 * math.pi)).reshape(-1)
    # Not a product of matrices, for which accelerators take fewer bits.
    return jnp.sum(jnp.asarray(weight, jnp.float32) * log_prob(points.reshape(-1, 2), noise, nodes))

"""Parzen-window log-likelihood, for comparison with papers that report it and with models that have no bound.

    log p(x) = log 1/S sum_j N(x; s_j, h^2 I)

over S samples s_j of a model, with the bandwidth h that is best on validation data: the
protocol of Breuleux, Bengio and Vincent (2011) and Goodfellow et al. (2014, table 1), who
have images in [0, 1] and 10 000 samples.

This is the likelihood of a smoothed copy of the samples and no bound on the model's own.
In many dimensions it is far below it, and it can rank models wrongly (Theis, van den Oord
and Bethge 2016, section 3.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from dpm_jax.evaluation.estimate import Estimate
from dpm_jax.units import bits

__all__ = ["CANDIDATES", "Parzen", "choose_bandwidth", "evaluate", "log_likelihood"]

# Twenty bandwidths from 0.1 to 1, in units of the whole grey scale.
CANDIDATES: tuple[float, ...] = tuple(float(h) for h in np.logspace(-1, 0, 20))

# Of points and of samples at a time: rows, and numbers in them.
_MAX_ROWS, _MAX_NUMBERS = 1024, 2**21
# Beyond these 1 / (2 h^2) is not a normal float32.
_LEAST_BANDWIDTH, _GREATEST_BANDWIDTH = 1e-18, 1e18


class Parzen(NamedTuple):
    """Parzen-window log-likelihood of test data, an example.

    Attributes:
      nats: mean over the test points, samples and bandwidth held fixed.
      bits: `nats` in bits.
      bandwidth: h, chosen on the validation points.
      bandwidth_at_end: True if that is the least or greatest candidate, so that a better one may lie beyond.
      num_samples: of the model.
      num_points: of the test data.
    """

    nats: Estimate
    bits: Estimate
    bandwidth: float
    bandwidth_at_end: bool
    num_samples: int
    num_points: int


@jax.jit
def _add(nearest: Array, total: Array, points: Array, samples: Array, rate: Array) -> tuple[Array, Array]:
    """Take one more chunk of samples into the sums for a chunk of points.

    Args:
      nearest: [N] least squared distance so far.
      total: [H, N] sum over samples so far of exp(-(squared distance - nearest) rate).
      points: [N, D].
      samples: [S, D].
      rate: [H] 1 / (2 h^2).

    Returns:
      `nearest` and `total` with the chunk.
    """
    product = jnp.matmul(points, samples.T, precision="highest")
    squared = (points**2).sum(-1)[:, None] + (samples**2).sum(-1) - 2 * product
    squared = jnp.maximum(squared, 0)
    least = jnp.minimum(nearest, squared.min(1))

    def add(row: tuple[Array, Array]) -> Array:
        total, rate = row
        return total * jnp.exp(-(nearest - least) * rate) + jnp.exp(-(squared - least[:, None]) * rate).sum(1)

    # One bandwidth after another: memory holds one [N, S], not H of them.
    return least, jax.lax.map(add, (total, rate))


def _log_likelihoods(samples: ArrayLike, points: ArrayLike, bandwidths: Sequence[float] | np.ndarray) -> np.ndarray:
    """Log-likelihood in nats at each bandwidth, [H, N] float64; each distance is computed once."""
    samples, points = _rows("samples", samples), _rows("points", points)
    if points.shape[1] != samples.shape[1]:
        raise ValueError(f"points: {points.shape[1]} dimensions, but samples have {samples.shape[1]}")
    h = np.asarray(bandwidths, np.float64)
    if h.ndim != 1 or h.size == 0:
        raise ValueError(f"candidates: a list of bandwidths is needed, got shape {h.shape}")
    bad = ~((h >= _LEAST_BANDWIDTH) & (h <= _GREATEST_BANDWIDTH))
    if bad.any():
        raise ValueError(
            f"bandwidth: must be from {_LEAST_BANDWIDTH} to {_GREATEST_BANDWIDTH}, got {float(h[bad.argmax()])}"
        )
    rate = 1 / (2 * h**2)
    # Distances do not change, and what cancels in |x|^2 + |s|^2 - 2 x s is least about the mean.
    mean = samples.mean(0, dtype=np.float64)
    parts = []
    for part in _chunks(points):
        nearest, total = jnp.full(len(part), jnp.inf), jnp.zeros((len(h), len(part)))
        centred = _centred(part, mean)
        for chunk in _chunks(samples):
            nearest, total = _add(nearest, total, centred, _centred(chunk, mean), jnp.asarray(rate, jnp.float32))
            # Or chunks would queue up, and fill the memory.
            total.block_until_ready()
        parts.append(np.log(np.asarray(total, np.float64)) - rate[:, None] * np.asarray(nearest, np.float64))
    log_normalizer = math.log(len(samples)) + samples.shape[1] / 2 * np.log(2 * math.pi * h**2)
    result: np.ndarray = np.concatenate(parts, axis=1) - log_normalizer[:, None]
    return result


def _rows(name: str, array: ArrayLike) -> np.ndarray:
    rows = np.asarray(array)
    if rows.ndim != 2 or rows.size == 0:
        raise ValueError(f"{name}: [N, D] with N and D at least 1 is needed, got shape {rows.shape}")
    return rows


def _chunks(rows: np.ndarray) -> list[np.ndarray]:
    """Return views of the rows in chunks as even as can be, so that they are of two sizes at most."""
    most = min(max(_MAX_NUMBERS // rows.shape[1], 1), _MAX_ROWS)
    return np.array_split(rows, -(-len(rows) // most))


def _centred(rows: np.ndarray, mean: np.ndarray) -> Array:
    return jnp.asarray((rows - mean).astype(np.float32))


def log_likelihood(samples: ArrayLike, points: ArrayLike, bandwidth: float) -> np.ndarray:
    """Log-density in nats of each point, [N] float64, under normal windows on the samples.

    Squared distances are float32, right to about 1e-6 of |x - mean|^2; divided by 2 h^2, that
    is the error of the result. In chunks, so beyond the arguments memory is some 50 MB
    however many there are.

    Args:
      samples: [S, D], finite.
      points: [N, D], finite.
      bandwidth: h, the windows' standard deviation, in the data's units.

    Raises:
      ValueError: if shapes do not fit or bandwidth is not a positive number whose square float32 can hold.
    """
    result: np.ndarray = _log_likelihoods(samples, points, [bandwidth])[0]
    return result


def choose_bandwidth(
    samples: ArrayLike, points: ArrayLike, candidates: Sequence[float] | np.ndarray = CANDIDATES
) -> float:
    """Return the candidate under which the points' mean log-likelihood is greatest.

    Args:
      samples: [S, D], finite.
      points: [N, D], finite; validation data, not those reported on.
      candidates: bandwidths, in the data's units, in any order.

    Raises:
      ValueError: as `log_likelihood`.
    """
    means = _log_likelihoods(samples, points, candidates).mean(1)
    return float(candidates[int(means.argmax())])


def evaluate(
    samples: ArrayLike,
    validation: ArrayLike,
    test: ArrayLike,
    candidates: Sequence[float] | np.ndarray = CANDIDATES,
) -> Parzen:
    """Parzen-window log-likelihood of the test images, at the bandwidth that suits the validation images best.

    Args:
      samples: images of the model in [0, 1], [S, ...]; each is flattened.
      validation: [V, ...].
      test: [N, ...], N >= 2.
      candidates: bandwidths, in units of the whole grey scale.

    Raises:
      ValueError: if an argument is empty, holds values outside [0, 1] or NaN, or has images
        of another size than the samples; if N < 2; or if a candidate is out of range.
    """
    samples, validation, test = (
        _images(name, images) for name, images in (("samples", samples), ("validation", validation), ("test", test))
    )
    for name, images in (("validation", validation), ("test", test)):
        if images.shape[1] != samples.shape[1]:
            raise ValueError(f"{name}: {images.shape[1]} values an image, but samples have {samples.shape[1]}")
    if len(test) < 2:
        raise ValueError(f"test: a standard error needs at least 2 images, got {len(test)}")
    bandwidth = choose_bandwidth(samples, validation, candidates)
    values = log_likelihood(samples, test, bandwidth)
    return Parzen(
        nats=Estimate.of(values),
        bits=Estimate.of(bits(values)),
        bandwidth=bandwidth,
        bandwidth_at_end=bandwidth in (min(candidates), max(candidates)),
        num_samples=len(samples),
        num_points=len(test),
    )


def _images(name: str, array: ArrayLike) -> np.ndarray:
    """Images in [0, 1] as rows."""
    images = np.asarray(array)
    if images.ndim < 1 or images.size == 0:
        raise ValueError(f"{name}: empty, shape {images.shape}")
    low, high = float(images.min()), float(images.max())
    # NaN, which is neither, fails too.
    if not (low >= 0 and high <= 1):
        raise ValueError(f"{name}: values must be in [0, 1], got {low} to {high}")
    return images.reshape(len(images), -1)

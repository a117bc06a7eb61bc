"""The Frechet distance between two sets of features, each taken for a normal law.

    d^2 = |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^{1/2})

(Dowson and Landau 1982). With roots S = L L^T the trace is the least |L_a - L_b U|^2 over all orthogonal
U, the squared distance of Bures; the U at which it is least comes from the singular vectors of L_a^T L_b (Bhatia, Jain
and Lim 2019, theorem 1). As a sum of squares it loses nothing between laws that are close, is never negative, and asks
for no inverse: covariances may be of any rank.

This is not FID, which is this distance on the features of one network, trained on photographs (Heusel et al. 2017). On
features of another network it is another number, and no two such numbers can be compared.

It is biased upwards, by O(1 / N) (Chong and Forsyth 2020): two samples of N of the same law, of d features that vary
alike, are at a mean d^2 of (d + 5) / (2 N) of their total variance. So: always compare at the same N, and with what as
many real data would have. NumPy, float64.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["NUM_BLOCKS", "Frechet", "Moments", "distance", "moments", "squared_distance"]

# Of the jackknife: a standard error from 20 blocks is itself right to about 16 %.
NUM_BLOCKS = 20
# With one of three left out, a covariance can still be had.
_FEWEST = 3


class Moments(NamedTuple):
    """Mean and covariance of the normal distribution that is fitted to features.

    Attributes:
      mean: [d].
      covariance: [d, d], symmetric, without negative eigenvalues but for rounding.
    """

    mean: np.ndarray
    covariance: np.ndarray


class Frechet(NamedTuple):
    """Squared Frechet distance between two samples, in squared units of the features.

    Attributes:
      value: d^2 of the two, biased upwards.
      stderr: its standard error over both samples, by the jackknife over blocks. Where the laws are the same the
        distance is not linear in the samples, and this is the order of the error only.
      bias: the jackknife's estimate of the bias; value - bias can be compared between different N, if with care.
      num_a: of the first.
      num_b: of the second.
    """

    value: float
    stderr: float
    bias: float
    num_a: int
    num_b: int


def moments(features: ArrayLike) -> Moments:
    """Mean and covariance (over N - 1) of features [N, d], N >= 2.

    Raises:
      ValueError: if features are of no such shape, or not finite.
    """
    return _moments(_rows("features", features, 2))


def _moments(rows: np.ndarray) -> Moments:
    mean = rows.mean(0)
    centred = rows - mean
    return Moments(mean, centred.T @ centred / (len(rows) - 1))


def _rows(name: str, features: ArrayLike, fewest: int) -> np.ndarray:
    rows = np.asarray(features, np.float64)
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise ValueError(f"{name}: [N, d] with d at least 1 is needed, got shape {rows.shape}")
    if len(rows) < fewest:
        raise ValueError(f"{name}: at least {fewest} samples are needed, got {len(rows)}")
    if not np.isfinite(rows).all():
        raise ValueError(f"{name}: values must be finite")
    return rows


def squared_distance(a: Moments, b: Moments) -> float:
    """Squared Frechet distance between normal laws (Dowson and Landau 1982).

    Right to about 1e-14 of the greater variance; where a covariance is singular, to the root of that of its
    nearly vanishing eigenvalues.

    Args:
      a: of d dimensions.
      b: of as many.
    """
    root_a, root_b = _root(a.covariance), _root(b.covariance)
    left, _, right = np.linalg.svd(root_b.T @ root_a)
    return float(((a.mean - b.mean) ** 2).sum() + ((root_a - root_b @ left @ right) ** 2).sum())


def _root(covariance: np.ndarray) -> np.ndarray:
    """L [d, d] with L L^T the covariance."""
    values, vectors = np.linalg.eigh(covariance)
    # Below this they are rounding errors, and roots of those would not be small.
    floor = len(values) * np.finfo(np.float64).eps * max(values[-1], 0)
    root: np.ndarray = vectors * np.sqrt(np.where(values > floor, values, 0))
    return root


def distance(features_a: ArrayLike, features_b: ArrayLike) -> Frechet:
    """Squared Frechet distance between two samples of features, biased upwards, with its standard error.

    The error is the jackknife's, with one of `NUM_BLOCKS` blocks left out of both samples at a time (of N, where N is
    less). Blocks are every NUM_BLOCKS-th sample, so that the order of the samples does not matter much.

    Args:
      features_a: [N, d], N >= 3. Where N is below d, covariances are singular and the bias is most of the distance.
      features_b: [M, d], M >= 3, independent of the first.

    Raises:
      ValueError: if shapes do not fit, there are too few samples, or a value is not finite.
    """
    a, b = _rows("features_a", features_a, _FEWEST), _rows("features_b", features_b, _FEWEST)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features_b: {b.shape[1]} features, but features_a have {a.shape[1]}")
    blocks = min(NUM_BLOCKS, len(a), len(b))
    value = squared_distance(_moments(a), _moments(b))
    left_out = np.array([squared_distance(*(_without(rows, i, blocks) for rows in (a, b))) for i in range(blocks)])
    return Frechet(
        value=value,
        stderr=math.sqrt((blocks - 1) * float(left_out.var())),
        bias=(blocks - 1) * (float(left_out.mean()) - value),
        num_a=len(a),
        num_b=len(b),
    )


def _without(rows: np.ndarray, block: int, blocks: int) -> Moments:
    return _moments(rows[np.arange(len(rows)) % blocks != block])

"""The best Gaussian model of patches of an image, a density that knows their means and covariances alone."""

from __future__ import annotations

import math

import jax
import numpy as np
from scipy import stats

from dpm_jax.data import Source
from dpm_jax.errors import UserError
from dpm_jax.evaluation.estimate import Estimate

__all__ = ["gain"]

# Patches that the covariance is estimated from, and that are held out.
_TRAINED, _HELD_OUT = 50_000, 4_000


def gain(key: jax.Array, source: Source) -> Estimate:
    """Return log N(x; m, S) less the log-density of the standard normal on held-out patches, in bits/pixel.

    m and S are the mean and the covariance of training patches, in float64.

    Args:
      key: PRNG key.
      source: of patches, its `shape` their size.

    Raises:
      UserError: if it has no training examples to look at.
    """
    if source.train_examples is None:
        raise UserError("the data have no training examples")
    train_key, held_out_key = jax.random.split(key)
    trained = source.standardization.dequantize(train_key, source.train_examples(_TRAINED))
    num = _HELD_OUT if source.num_held_out is None else min(_HELD_OUT, source.num_held_out)
    x, seen = (
        np.asarray(patches, np.float64).reshape(len(patches), -1)
        for patches in (source.held_out(held_out_key, num), trained)
    )
    best = stats.multivariate_normal(seen.mean(0), np.cov(seen, rowvar=False))
    log_ratio = best.logpdf(x) - stats.norm.logpdf(x).sum(1)
    return Estimate.of(log_ratio / math.prod(source.shape[:-1]) / np.log(2))

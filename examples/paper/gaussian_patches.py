"""The best Gaussian model of patches of an image: what a density knows of it that sees second moments alone."""

from __future__ import annotations

import jax
import numpy as np

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
    x, seen = x - seen.mean(0), seen - seen.mean(0)
    factor = np.linalg.cholesky(seen.T @ seen / len(seen))
    whitened = np.linalg.solve(factor, x.T)
    standard = x + np.asarray(trained, np.float64).reshape(len(seen), -1).mean(0)
    log_ratio = 0.5 * ((standard**2).sum(1) - (whitened**2).sum(0)) - np.log(np.diag(factor)).sum()
    num_pixels = int(np.prod(source.shape[:-1]))
    return Estimate.of(log_ratio / num_pixels / np.log(2))

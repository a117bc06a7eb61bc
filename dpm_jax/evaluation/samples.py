"""Samples of a trained model, in the data's own units."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dpm_jax import sampling
from dpm_jax.data import Standardization
from dpm_jax.errors import UserError
from dpm_jax.numerics.shapes import chunk_size
from dpm_jax.training import mesh
from dpm_jax.training.experiment import Experiment, Params
from dpm_jax.training.progress import bar

__all__ = ["draw", "in_data_units"]


def draw(
    key: Array,
    experiment: Experiment,
    params: Params,
    standardization: Standardization,
    num: int,
    shape: tuple[int, ...] | None = None,
    chunk: int | None = None,
) -> np.ndarray:
    """Draw samples in the data's own units, [num, *shape]: float64, pixels uint8.

    Args:
      key: PRNG key.
      experiment: what was trained.
      params: its parameters.
      standardization: of its data.
      num: how many.
      shape: of one; that of the data if None. Convolutional networks draw at any size that their scales divide.
      chunk: how many at a time, with the same result; what fits in memory if None.

    Raises:
      UserError: if a sample is not finite.
    """
    shape = shape or experiment.shape
    chunk = min(chunk or chunk_size(shape, 10_000), num)
    # As few chunks, of as even a size, as can be.
    size = -(-num // -(-num // chunk))

    @jax.jit
    def run(key: Array, params: Params, first: Array) -> Array:
        start = None if experiment.cold is None else experiment.cold.start(params, shape)
        return mesh.gather(sampling.sample(key, experiment.model(params), size, shape, start=start, first=first))

    parts = []
    with bar("sampling", num, "sample") as shown:
        for first in range(0, num, size):
            parts.append(np.asarray(run(key, params, jnp.asarray(first))))
            shown.update(min(size, num - first))
    return in_data_units(np.concatenate(parts)[:num], standardization)


def in_data_units(x: Array | np.ndarray, standardization: Standardization) -> np.ndarray:
    """Bring samples [num, ...] from the model's units to the data's own.

    Raises:
      UserError: if a sample is not finite, saying how many are not.
    """
    finite = np.isfinite(np.asarray(x)).reshape(len(x), -1).all(axis=1)
    if not finite.all():
        raise UserError(
            f"{np.count_nonzero(~finite)} of {len(x)} samples are not finite, so none are written; train longer or at "
            "a lower learning rate, predict v or x_0 (config.reverse.prediction), or lower the last beta_t"
        )
    return standardization.invert(x)

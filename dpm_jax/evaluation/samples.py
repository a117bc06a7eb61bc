"""Samples of a trained model, in the data's own units."""

from __future__ import annotations

import jax
import numpy as np
from jax import Array

from dpm_jax import mesh, sampling
from dpm_jax.data import Standardization
from dpm_jax.experiment import Experiment, Params
from dpm_jax.shapes import chunk_size

__all__ = ["draw"]


def draw(
    key: Array,
    experiment: Experiment,
    params: Params,
    standardization: Standardization,
    num: int,
    shape: tuple[int, ...] | None = None,
    chunk: int | None = None,
) -> np.ndarray:
    """Samples in the data's own units, [num, *shape].

    Args:
      key: PRNG key.
      experiment: what was trained.
      params: its parameters.
      standardization: of its data.
      num: how many.
      shape: of one; that of the data if None. Convolutional networks draw at any size that their scales divide.
      chunk: how many at a time, with the same result; what fits in memory if None.
    """
    shape = shape or experiment.shape
    chunk = chunk or chunk_size(shape, 10_000)

    @jax.jit
    def run(key: Array, params: Params) -> Array:
        schedule, reverse = experiment.model(params)
        start = None if experiment.cold is None else experiment.cold.start(params)
        x = sampling.ancestral(
            key, experiment.kernel, reverse, num, shape, schedule.num_timesteps, chunk_size=chunk, start=start
        )
        return mesh.gather(standardization.invert(x))

    return np.asarray(run(key, params))

"""Samples of a trained model, in the data's own units."""

from __future__ import annotations

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dpm_jax import sampling
from dpm_jax.data import Standardization
from dpm_jax.errors import UserError
from dpm_jax.numerics.shapes import chunk_size
from dpm_jax.training import mesh, programs
from dpm_jax.training.experiment import Experiment, Params
from dpm_jax.training.progress import bar

__all__ = ["Sampler", "draw", "in_data_units", "sampler", "seconds"]

# (key, parameters, number of the first sample, how many) -> samples in the model's units; compiled for each "how many".
Sampler = Callable[[Array, Params, Array, int], Array]


def sampler(experiment: Experiment, shape: tuple[int, ...]) -> Sampler:
    """Return the compiled sampler of a model, for examples of this shape; see `draw`."""

    def run(key: Array, params: Params, first: Array, num: int) -> Array:
        start = None if experiment.cold is None else experiment.cold.start(params, shape)
        return mesh.gather(sampling.sample(key, experiment.model(params), num, shape, start=start, first=first))

    return jax.jit(run, static_argnums=3)


def _size_of_chunks(num: int, shape: tuple[int, ...], chunk: int | None) -> int:
    """As few chunks, of as even a size, as can be."""
    most = min(chunk or chunk_size(shape, 10_000), num)
    return -(-num // -(-num // most))


def seconds(
    experiment: Experiment, params: Params, num: int, shape: tuple[int, ...], chunk: int | None = None
) -> float:
    """Estimate how long `draw` takes, without compilation, from the time of one reverse step.

    Args:
      experiment: what was trained.
      params: its parameters.
      num: how many samples.
      shape: of one.
      chunk: as of `draw`.

    Returns:
      Seconds.
    """
    size = _size_of_chunks(num, shape, chunk)
    num_timesteps = experiment.model(params).num_timesteps
    reverse_step = programs.reverse_step(experiment, size, shape).function

    @jax.jit
    def step(params: Params, key: Array) -> Array:
        # Drawn here: how an argument is laid out over devices that do not divide it, XLA may not choose.
        x = jax.random.normal(key, (size, *shape))
        drawn: Array = mesh.gather(reverse_step(params, key, x, num_timesteps))
        return drawn

    key = jax.random.key(0)
    jax.block_until_ready(step(params, key))
    begin = time.perf_counter()
    jax.block_until_ready(step(params, key))
    return (time.perf_counter() - begin) * num_timesteps * -(-num // size)


def draw(
    key: Array,
    experiment: Experiment,
    params: Params,
    standardization: Standardization,
    num: int,
    shape: tuple[int, ...] | None = None,
    chunk: int | None = None,
    compiled: Sampler | None = None,
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
      compiled: `sampler` of the same experiment and shape, to be used again; None for a new one.

    Raises:
      UserError: if a sample is not finite.
    """
    shape = shape or experiment.shape
    size = _size_of_chunks(num, shape, chunk)
    run = compiled or sampler(experiment, shape)
    parts = []
    with bar("sampling", num, "sample") as shown:
        for first in range(0, num, size):
            parts.append(np.asarray(run(key, params, jnp.asarray(first), size)))
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

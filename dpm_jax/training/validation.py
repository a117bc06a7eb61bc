"""By how much one checkpoint is better than another: their losses on the same examples, with the same noise.

In rounds. Each looks at the validation examples once, with fresh times and noise (and fresh examples, where there is no
end of them), and round r is the same for every checkpoint of a run. Rounds are taken until the error that more of them
would reduce is small, or they have cost a share of the training between two checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dpm_jax.data.sources import Source
from dpm_jax.training import mesh
from dpm_jax.training import step as step_lib
from dpm_jax.training.experiment import Experiment, streams
from dpm_jax.training.step import TrainState
from dpm_jax.units import nats, num_parts

__all__ = ["Validation", "difference", "validate"]

# Examples of a round, at most.
_NUM_EXAMPLES = 1024
# Standard error, in bits of the data's unit, at which no more rounds are taken.
_STDERR_BITS = 0.02
# The most they may cost, as a share of the training between two checkpoints, whose steps cost as much as three
# calls of the network; but two rounds are always taken, so that their differences have an error.
_SHARE, _CALLS, _FEWEST = 0.05, 3, 2
# The most rounds: with few examples a round is short, but starting it takes as long as with many.
_MOST = 64


class Validation(NamedTuple):
    """The loss of one checkpoint.

    Attributes:
      rounds: mean loss of each round.
      mean: of all rounds.
      stderr: standard error of the mean, over examples, times and noise.
    """

    rounds: tuple[float, ...]
    mean: float
    stderr: float


def difference(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Return the mean of first - second over the rounds that both have, and its standard error, NaN for one round."""
    num = min(len(first), len(second))
    apart = np.asarray(first[:num], np.float64) - np.asarray(second[:num], np.float64)
    return float(apart.mean()), float(apart.std(ddof=1) / np.sqrt(num)) if num > 1 else np.nan


def validate(experiment: Experiment, source: Source) -> Callable[[TrainState], Validation]:
    """Return a function that finds the loss of a state's averaged parameters.

    Args:
      experiment: what is trained.
      source: its data, of which `validation` is looked at.
    """
    settings = experiment.train
    data_key, noise_key = jax.random.split(streams(experiment.seed).validation)
    draw = source.validation or source.held_out
    endless = source.validation is None or source.num_validation is None
    num = _NUM_EXAMPLES if endless else min(_NUM_EXAMPLES, source.num_validation or 1)
    # As many at a time as training takes.
    size = min(settings.batch_size // settings.accumulate, num)
    num -= num % size
    affordable = _SHARE * _CALLS * settings.checkpoint_every * settings.batch_size / num
    most = max(_FEWEST, min(_MOST, int(affordable))) if experiment.validation_is_bound else _FEWEST
    enough = float(nats(_STDERR_BITS)) * num_parts(experiment.shape)
    first = np.asarray(draw(jax.random.fold_in(data_key, 0), num))

    @jax.jit
    def one_round(state: TrainState, key: Array, chunks: Array) -> tuple[Array, Array]:
        params = step_lib.averaged_params(experiment, state)

        def of_chunk(numbered: tuple[Array, Array]) -> tuple[Array, Array]:
            number, x_0 = numbered
            return experiment.validation_loss(params, jax.random.fold_in(key, number), x_0)

        found: tuple[Array, Array] = jax.lax.map(of_chunk, (jnp.arange(len(chunks)), chunks))
        return mesh.gather(found)

    def losses(state: TrainState) -> Validation:
        values, stderrs = [], []
        for number in range(most):
            x_0 = np.asarray(draw(jax.random.fold_in(data_key, number), num)) if endless and number else first
            chunks = x_0.reshape(-1, size, *x_0.shape[1:])
            found, stderr = jax.device_get(one_round(state, jax.random.fold_in(noise_key, number), chunks))
            values.append(found.reshape(-1).astype(np.float64))
            stderrs.append(stderr.astype(np.float64))
            if endless:
                total = noise = float(np.sqrt(np.square(stderrs).sum())) / np.size(stderrs)
            else:
                # The same examples again and again: over their means, as though their times were independent.
                total = float(np.mean(values, axis=0).std(ddof=1) / np.sqrt(num)) if num > 1 else np.nan
                rounds = len(values)
                noise = float(np.sqrt(np.var(values, axis=0, ddof=1).sum() / rounds)) / num if rounds > 1 else np.nan
            if len(values) >= _FEWEST and not noise > enough:
                break
        means = tuple(float(value.mean()) for value in values)
        return Validation(means, float(np.mean(means)), total)

    return losses

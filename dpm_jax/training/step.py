"""The train step, pure, and many of them in one dispatch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from dpm_jax.experiment import Experiment, Memory, Params

__all__ = ["Progress", "TrainState", "averaged_params", "init", "make_run_steps", "train_step"]


class TrainState(NamedTuple):
    """All that training carries from one step to the next; what a checkpoint holds.

    Attributes:
      step: int32 scalar, optimizer steps taken.
      params: of the network (and the schedule, where it is learned).
      opt_state: of the optimizer.
      average: decayed sum of past params, not yet corrected for its start at zero.
      memory: of the loss, see `Experiment`.
    """

    step: Array
    params: Params
    opt_state: Any
    average: Params
    memory: Memory


class Progress(NamedTuple):
    """What one dispatch reports.

    Attributes:
      loss: mean over its steps; nats, where it comes to -K.
      grad_norm: mean global norm of the gradient, before clipping.
      failed_at: the step at which loss or gradient was not finite; -1 if none was.
    """

    loss: Array
    grad_norm: Array
    failed_at: Array


def _streams(experiment: Experiment) -> tuple[Array, Array]:
    """Keys of initialisation and of training; step s uses fold_in(training, s), so resuming needs no RNG state."""
    init_key, train_key = jax.random.split(jax.random.key(experiment.config.seed))
    return init_key, train_key


def init(experiment: Experiment) -> TrainState:
    """The state before the first step, a function of the config's seed."""
    params = experiment.init(_streams(experiment)[0])
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=experiment.optimizer.init(params),
        average=jax.tree.map(jnp.zeros_like, params),
        # A copy, for the state is donated.
        memory=jax.tree.map(jnp.array, experiment.memory),
    )


def train_step(experiment: Experiment, state: TrainState, key: Array, x_0: Array) -> tuple[TrainState, Array, Array]:
    """One optimizer step on a batch: (new state, loss, gradient norm)."""
    loss_and_grad = jax.value_and_grad(experiment.loss, has_aux=True)
    (loss, memory), grads = loss_and_grad(state.params, key, x_0, state.memory)
    updates, opt_state = experiment.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    decay = experiment.config.optimizer.ema_decay
    average = optax.tree.update_moment(params, state.average, decay, order=1)
    return TrainState(state.step + 1, params, opt_state, average, memory), loss, optax.tree.norm(grads)


def averaged_params(experiment: Experiment, state: TrainState) -> Params:
    """The exponential moving average of the parameters, corrected for its start (exact from step 1)."""
    decay = experiment.config.optimizer.ema_decay
    corrected = optax.tree.bias_correction(state.average, decay, jnp.maximum(state.step, 1))
    params: Params = jax.tree.map(lambda a, p: jnp.where(state.step == 0, p, a), corrected, state.params)
    return params


def make_run_steps(
    experiment: Experiment, draw: Callable[[Array, Any], Array]
) -> Callable[[TrainState, int, Any], tuple[TrainState, Progress]]:
    """Compiled `run_steps(state, num, batches)`: `num` steps in one dispatch, each on a batch `draw(key, batches[i])`.

    `num` is traced, so that every length is the same program; `batches` is [capacity >= num, ...],
    or None where `draw` needs nothing but a key. It stops early at a step whose loss or gradient
    is not finite, and says which. The state is donated.
    """
    train_key = _streams(experiment)[1]

    def run_steps(state: TrainState, num: int, batches: Any = None) -> tuple[TrainState, Progress]:
        end = state.step + num
        start = state.step

        def going(carry: tuple[TrainState, Progress]) -> Array:
            return (carry[0].step < end) & (carry[1].failed_at < 0)

        def advance(carry: tuple[TrainState, Progress]) -> tuple[TrainState, Progress]:
            state, progress = carry
            data_key, noise_key = jax.random.split(jax.random.fold_in(train_key, state.step))
            x_0 = draw(data_key, jax.tree.map(lambda a: a[state.step - start], batches))
            new_state, loss, grad_norm = train_step(experiment, state, noise_key, x_0)
            finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
            return new_state, Progress(
                loss=progress.loss + loss,
                grad_norm=progress.grad_norm + grad_norm,
                failed_at=jnp.where(finite, -1, new_state.step),
            )

        nothing = Progress(jnp.zeros(()), jnp.zeros(()), jnp.asarray(-1, jnp.int32))
        state, total = jax.lax.while_loop(going, advance, (state, nothing))
        taken = jnp.maximum(state.step - start, 1)
        return state, Progress(total.loss / taken, total.grad_norm / taken, total.failed_at)

    return jax.jit(run_steps, donate_argnums=0)

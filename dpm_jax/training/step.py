"""The train step, pure, and many of them in one dispatch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from dpm_jax.numerics.threefry import unrolled
from dpm_jax.training import mesh
from dpm_jax.training.experiment import Experiment, Memory, Params, streams

__all__ = [
    "Progress",
    "TrainState",
    "averaged_params",
    "init",
    "make_run_steps",
    "next_step",
    "no_progress",
    "train_step",
]


class TrainState(NamedTuple):
    """All that training carries from one step to the next; what a checkpoint holds.

    Attributes:
      step: int32 scalar, steps taken.
      num_updates: int32 scalar, those of them that changed anything: the others had a loss or gradient that
        was not finite, and were skipped.
      skipped: int32 scalar, how many were skipped in a row, up to here.
      params: of the network (and the schedule, where it is learned).
      opt_state: of the optimizer.
      average: decayed sum of past params, not yet corrected for its start at zero.
      memory: of the loss, see `Experiment`.
    """

    step: Array
    num_updates: Array
    skipped: Array
    params: Params
    opt_state: Any
    average: Params
    memory: Memory


class Progress(NamedTuple):
    """Report of the steps of one dispatch, or of several.

    Attributes:
      total_loss: sum over the steps that were not skipped; nats, where the loss is -K.
      total_grad_norm: sum of the global norm of the gradient, before clipping, over the same steps.
      num_updates: how many these are.
      num_skipped: steps whose loss or gradient was not finite.
      failed_at: the step at which there had been too many of those in a row; -1 if there were not.
      learning_rate: of the next update.
    """

    total_loss: Array
    total_grad_norm: Array
    num_updates: Array
    num_skipped: Array
    failed_at: Array
    learning_rate: Array

    @property
    def loss(self) -> float:
        """Mean over the steps that were not skipped; NaN if all were. On the host."""
        return float(self.total_loss) / int(self.num_updates) if self.num_updates else math.nan

    @property
    def grad_norm(self) -> float:
        """Mean global norm of the gradient over the same steps. On the host."""
        return float(self.total_grad_norm) / int(self.num_updates) if self.num_updates else math.nan


def no_progress() -> Progress:
    """Return the report of no steps."""
    zero, none = jnp.zeros(()), jnp.zeros((), jnp.int32)
    return Progress(zero, zero, none, none, none - 1, zero)


def init(experiment: Experiment, params: Params | None = None) -> TrainState:
    """Return the state before the first step, a function of the config's seed.

    Args:
      experiment: what is trained.
      params: taken in place of the initial ones that have the same top-level names.
    """
    params = experiment.init(streams(experiment.seed).init) | (params or {})
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        num_updates=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=experiment.optimizer.init(params),
        average=jax.tree.map(jnp.zeros_like, params),
        # A copy, for the state is donated.
        memory=jax.tree.map(jnp.array, experiment.memory),
    )


def _loss_and_grads(experiment: Experiment, state: TrainState, key: Array, x_0: Array) -> tuple[Array, Memory, Params]:
    """Return (mean loss, memory, mean gradient) of a batch, in the number of parts that the config sets."""
    loss_and_grad = jax.value_and_grad(experiment.loss, has_aux=True)
    num = experiment.train.accumulate
    if num == 1:
        (loss, memory), grads = loss_and_grad(state.params, key, x_0, state.memory)
        return loss, memory, grads
    # Every num-th example, so that a batch that is spread over devices stays where it is.
    parts = x_0.reshape(-1, num, *x_0.shape[1:]).swapaxes(0, 1)

    def add(
        carry: tuple[Array, Memory, Params], part: tuple[Array, Array]
    ) -> tuple[tuple[Array, Memory, Params], None]:
        loss, memory, grads = carry
        (more, memory), gradient = loss_and_grad(state.params, *part, memory)
        return (loss + more / num, memory, jax.tree.map(lambda a, b: a + b / num, grads, gradient)), None

    nothing = jnp.zeros(()), state.memory, jax.tree.map(jnp.zeros_like, state.params)
    total, _ = jax.lax.scan(add, nothing, (jax.random.split(key, num), parts))
    return total


def train_step(experiment: Experiment, state: TrainState, key: Array, x_0: Array) -> tuple[TrainState, Array, Array]:
    """One optimizer step on a batch: (new state, loss, gradient norm); skipped, if one of these is not finite."""
    loss, memory, grads = _loss_and_grads(experiment, state, key, x_0)
    # Scopes are what profiles and `--dry_run` name operations by.
    with jax.named_scope("norm"):
        grad_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

    def unless_skipped(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)

    with jax.named_scope("update"):
        updates, opt_state = experiment.optimizer.update(grads, state.opt_state, state.params)
        # The average is of what is chosen here, so that XLA goes through the parameters once for both.
        params = unless_skipped(optax.apply_updates(state.params, updates), state.params)
        updated = state._replace(
            num_updates=state.num_updates + 1,
            skipped=jnp.zeros_like(state.skipped),
            opt_state=opt_state,
            average=optax.tree.update_moment(params, state.average, experiment.ema_decay, order=1),
            memory=memory,
        )
        skipping = state._replace(skipped=state.skipped + 1)
        new_state = unless_skipped(updated, skipping)._replace(params=params)
    return new_state._replace(step=state.step + 1), loss, grad_norm


def next_step(
    experiment: Experiment, draw: Callable[[Array, Any], Array], state: TrainState, batch: Any
) -> tuple[TrainState, Array, Array]:
    """Return (new state, loss, gradient norm) of the run's next step, on a batch `draw(key, batch)`."""
    train_key = streams(experiment.seed).train
    data_key, noise_key = jax.random.split(jax.random.fold_in(train_key, state.step))
    new_state, loss, grad_norm = train_step(experiment, state, unrolled(noise_key), mesh.spread(draw(data_key, batch)))
    return mesh.shard(new_state), loss, grad_norm


def averaged_params(experiment: Experiment, state: TrainState) -> Params:
    """Return the exponential moving average of the parameters, corrected for its start (exact from step 1)."""
    decay = experiment.ema_decay
    num = state.num_updates
    corrected = optax.tree.bias_correction(state.average, decay, jnp.maximum(num, 1))
    params: Params = jax.tree.map(lambda a, p: jnp.where(num == 0, p, a), corrected, state.params)
    return params


def make_run_steps(
    experiment: Experiment, draw: Callable[[Array, Any], Array]
) -> Callable[..., tuple[TrainState, Progress]]:
    """Return a compiled `run_steps(state, num, batches=None, so_far=None)`: `num` steps in one dispatch.

    Each is a step on a batch `draw(key, batches[i])`. `num` is traced, so that every length is the same program;
    `batches` is [capacity >= num, ...], or None where `draw` needs nothing but a key. `so_far` is the progress of
    dispatches before, which is added to. It stops early when `train.max_skipped` steps in a row had a loss or gradient
    that was not finite; from then on it does nothing. The state is donated.
    """
    most = experiment.train.max_skipped

    def run_steps(
        state: TrainState, num: int, batches: Any = None, so_far: Progress | None = None
    ) -> tuple[TrainState, Progress]:
        end = state.step + num
        start = state.step

        def going(carry: tuple[TrainState, Progress]) -> Array:
            on: Array = (carry[0].step < end) & (carry[0].skipped < most)
            return on

        def advance(carry: tuple[TrainState, Progress]) -> tuple[TrainState, Progress]:
            state, progress = carry
            batch = jax.tree.map(lambda a: a[state.step - start], batches)
            new_state, loss, grad_norm = next_step(experiment, draw, state, batch)
            finite = new_state.skipped == 0
            return new_state, Progress(
                total_loss=progress.total_loss + jnp.where(finite, loss, 0),
                total_grad_norm=progress.total_grad_norm + jnp.where(finite, grad_norm, 0),
                num_updates=progress.num_updates + jnp.where(finite, 1, 0),
                num_skipped=progress.num_skipped + jnp.where(finite, 0, 1),
                failed_at=jnp.where(new_state.skipped < most, -1, new_state.step),
                learning_rate=progress.learning_rate,
            )

        failed_before = jnp.where(state.skipped < most, -1, state.step)
        before = (no_progress() if so_far is None else so_far)._replace(failed_at=failed_before)
        state, progress = jax.lax.while_loop(going, advance, (state, before))
        rate = jnp.asarray(experiment.learning_rate(state.num_updates), jnp.float32)
        return state, progress._replace(learning_rate=rate)

    return jax.jit(run_steps, donate_argnums=0)

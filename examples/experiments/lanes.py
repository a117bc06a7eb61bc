"""Many runs in one program: those that differ only in numbers are lanes of one `vmap`.

A run is trained by `training.step.make_run_steps`, as train.py trains it, on the same draws as every other
lane: what differs between two lanes is what their numbers did. A lane whose loss is not finite stops there, and
the others go on.

A change of the program's constants (the schedule, and the network's clock, which follows from it) makes another
`Experiment`; several may share a program, with the same lanes each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from dpm_jax import bound
from dpm_jax.data.sources import Stream, Supply
from dpm_jax.training import step as step_lib
from dpm_jax.training.experiment import Experiment
from dpm_jax.training.step import TrainState

__all__ = ["Lane", "Program", "build", "stack", "with_lane"]

# Held-out examples at a time, of each lane.
_CHUNK = 2048

# One for each experiment, with the lanes as the first axis of every leaf.
States = list[TrainState]


class Lane(NamedTuple):
    """The numbers of one run; stacked, of all of them.

    Attributes:
      learning_rate: at the first step.
      momentum: of SGD; 0 for none.
      decay_rate: what the learning rate is multiplied by in the course of training, exponentially; 1: constant.
      adam: whether it is Adam, with the config's b1 and b2; else SGD.
    """

    learning_rate: Array | float
    momentum: Array | float = 0.0
    decay_rate: Array | float = 1.0
    adam: Array | bool = False


class Program(NamedTuple):
    """Compiled training and evaluation of all lanes of some experiments.

    Attributes:
      start: the states before the first step.
      run_steps: (states, num) -> states after `num` more steps, and for each experiment the step [lanes] at
        which loss or gradient was not finite, -1 where none was.
      evaluate: (key, states, x_0 [N, ...]) -> K of the averaged parameters, nats, [lanes, N] for each experiment.
      compile_seconds: what compiling the training took.
      num_bytes: what XLA plans for it: arguments, results and everything between.
    """

    start: States
    run_steps: Callable[[States, int], tuple[States, list[np.ndarray]]]
    evaluate: Callable[[Array, States, Array], list[np.ndarray]]
    compile_seconds: float
    num_bytes: int


def stack(lanes: Sequence[Lane]) -> Lane:
    """Lanes as one, with an axis of them in front of every number."""
    return Lane(*(jnp.asarray(values) for values in zip(*lanes, strict=True)))


def _either(condition: Array | bool, first: Any, second: Any) -> optax.GradientTransformation:
    """Return the first transformation where the condition holds, else the second; it may be traced."""

    def init(params: Any) -> Any:
        return first.init(params), second.init(params)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        of_first, first_state = first.update(updates, state[0], params)
        of_second, second_state = second.update(updates, state[1], params)
        chosen = jax.tree.map(lambda a, b: jnp.where(condition, a, b), of_first, of_second)
        return chosen, (first_state, second_state)

    return optax.GradientTransformation(init, update)


def with_lane(built: Experiment, lane: Lane) -> Experiment:
    """Return the experiment with a lane's optimizer, without warm-up, behind the config's clipping.

    Args:
      built: whose config gives `clip_norm`, Adam's b1 and b2, and the steps that the decay is spread over.
      lane: numbers, which may be traced.
    """
    settings, num_steps = built.config.optimizer, built.config.train.steps

    def rate(step: Array) -> Array:
        # optax.exponential_decay compares its decay rate with 0, which a traced one can't be.
        return lane.learning_rate * jnp.power(lane.decay_rate, step / num_steps)

    # Both are updated in every lane: next to the gradient it costs little, and one program is compiled, not two.
    either = _either(lane.adam, optax.adam(rate, **settings.adam.to_dict()), optax.sgd(rate, lane.momentum))
    optimizer = optax.chain(optax.clip_by_global_norm(settings.clip_norm), either)
    return built._replace(optimizer=optimizer, learning_rate=rate)


def build(experiments: Sequence[Experiment], lanes: Lane, supply: Supply) -> Program:
    """Compile the training of all lanes of all experiments; seeds and batch sizes are those of the configs.

    Args:
      experiments: of configs that differ in constants alone, as the schedule.
      lanes: see `stack`.
      supply: of a `Source`, drawn within the program.

    Raises:
      ValueError: if the supply is a stream from the host.
    """
    if isinstance(supply, Stream):
        raise ValueError("supply: lanes draw their examples within the program; a stream from the host can't be")

    def begin(built: Experiment, lane: Lane) -> TrainState:
        return step_lib.init(with_lane(built, lane))

    def advance(built: Experiment, num: Array, lane: Lane, state: TrainState) -> tuple[TrainState, Array]:
        batch_size = built.config.train.batch_size
        run_steps = step_lib.make_run_steps(with_lane(built, lane), lambda key, _: supply(key, batch_size))
        state, progress = run_steps(state, num, None)  # type: ignore[arg-type]
        return state, progress.failed_at

    def all_lanes(states: States, num: Array) -> list[tuple[TrainState, Array]]:
        pairs = zip(experiments, states, strict=True)
        return [jax.vmap(partial(advance, built, num))(lanes, state) for built, state in pairs]

    start = [jax.jit(jax.vmap(partial(begin, built)))(lanes) for built in experiments]
    began = time.perf_counter()
    compiled = jax.jit(all_lanes).lower(start, jnp.zeros((), jnp.int32)).compile()
    compile_seconds = time.perf_counter() - began

    def run_steps(states: States, num: int) -> tuple[States, list[np.ndarray]]:
        done = compiled(states, jnp.asarray(num, jnp.int32))
        return [state for state, _ in done], [np.asarray(failed_at) for _, failed_at in done]

    return Program(start, run_steps, _evaluation(experiments), compile_seconds, _num_bytes(compiled))


def _num_bytes(compiled: Any) -> int:
    plan = compiled.memory_analysis()
    return int(plan.temp_size_in_bytes + plan.argument_size_in_bytes + plan.output_size_in_bytes)


def _evaluation(experiments: Sequence[Experiment]) -> Callable[[Array, States, Array], list[np.ndarray]]:
    def one(built: Experiment, key: Array, x_0: Array, state: TrainState) -> Array:
        model = built.model(step_lib.averaged_params(built, state))
        return bound.evaluate(key, model, x_0, edge=built.edge).k

    @jax.jit
    def chunk(key: Array, states: States, x_0: Array) -> list[Array]:
        pairs = zip(experiments, states, strict=True)
        return [jax.vmap(partial(one, built, key, x_0))(state) for built, state in pairs]

    def evaluate(key: Array, states: States, x_0: Array) -> list[np.ndarray]:
        chunks = np.array_split(np.asarray(x_0), -(-len(x_0) // _CHUNK))
        parts = [chunk(jax.random.fold_in(key, i), states, jnp.asarray(part)) for i, part in enumerate(chunks)]
        return [np.concatenate(of_one, axis=1, dtype=np.float64) for of_one in zip(*parts, strict=True)]

    return evaluate

"""Programs that the commands run over and over, as functions of shapes, to be compiled and not run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dpm_jax import bound
from dpm_jax.training import mesh
from dpm_jax.training import step as step_lib
from dpm_jax.training.experiment import Experiment, Params
from dpm_jax.training.feed import Feed
from dpm_jax.training.step import TrainState

__all__ = ["Program", "abstract_state", "evaluation", "reverse_step", "train_step"]


class Program(NamedTuple):
    """A function, and what it is called with.

    Attributes:
      title: in words.
      function: traceable.
      arguments: shapes, dtypes and places.
      donated: positions of those that its results take the place of.
    """

    title: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    donated: tuple[int, ...] = ()


def abstract_state(experiment: Experiment, on: Mesh | None = None) -> TrainState:
    """Shapes, dtypes and places of the state: it may come from a machine with other devices.

    Args:
      experiment: what is trained.
      on: see `mesh.placement`.
    """
    state: TrainState = _placed(jax.eval_shape(lambda: step_lib.init(experiment)), on)
    return state


def train_step(experiment: Experiment, data: Feed, on: Mesh | None = None) -> Program:
    """Return one step of `train.py`, as `step.make_run_steps` has it in its loop.

    Args:
      experiment: what would be trained.
      data: its feed; a batch is taken.
      on: see `mesh.placement`.
    """

    def step(state: TrainState, batch: Any) -> tuple[TrainState, Array, Array]:
        return step_lib.next_step(experiment, data.draw, state, batch)

    batch = jax.tree.map(lambda a: _spread(a.shape[1:], a.dtype, on), data.take(1))
    title = f"a step of {experiment.train.batch_size} examples"
    return Program(title, step, (abstract_state(experiment, on), batch), donated=(0,))


def reverse_step(experiment: Experiment, num: int, shape: tuple[int, ...], on: Mesh | None = None) -> Program:
    """Return one step of the chain that `sample.py` draws samples by.

    Args:
      experiment: what was trained.
      num: samples that are drawn together.
      shape: of one.
      on: see `mesh.placement`.
    """

    def step(params: Params, key: Array, x_t: Array, t: Array) -> Array:
        law: Any = experiment.model(params).reverse(mesh.spread(x_t), jnp.broadcast_to(t, (num,)))
        drawn: Array = mesh.spread(law.sample(key))
        return drawn

    x_t, t = _spread((num, *shape), jnp.float32, on), _whole((), jnp.int32, on)
    arguments = (_params(experiment, on), _key(on), x_t, t)
    return Program(f"a reverse step of {num} samples", step, arguments, donated=(2,))


def evaluation(experiment: Experiment, num: int, on: Mesh | None = None) -> Program:
    """Return K of examples, as `evaluate.py` has it, its sum over t from one t each.

    Args:
      experiment: what was trained, not a cold chain.
      num: examples that are evaluated together.
      on: see `mesh.placement`.
    """

    def evaluate(params: Params, key: Array, x_0: Array) -> Array:
        x_0, model = experiment.data(mesh.spread(x_0)), experiment.model(params)
        return bound.evaluate(key, model, x_0, edge=experiment.edge, num_times=1).k

    arguments = (_params(experiment, on), _key(on), _spread((num, *experiment.shape), jnp.float32, on))
    return Program(f"K of {num} examples, from one t each", evaluate, arguments)


def _params(experiment: Experiment, on: Mesh | None) -> Params:
    params: Params = _placed(jax.eval_shape(experiment.init, jax.random.key(0)), on)
    return params


def _placed(tree: Any, on: Mesh | None) -> Any:
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=mesh.placement(a.shape, on)), tree)


def _key(on: Mesh | None) -> Any:
    return _whole((), jax.random.key(0).dtype, on)


def _whole(shape: tuple[int, ...], dtype: Any, on: Mesh | None) -> Any:
    """Return an array that every device has whole."""
    place = mesh.placement((), on)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=place)


def _spread(shape: tuple[int, ...], dtype: Any, on: Mesh | None) -> Any:
    """Return an array whose first axis is spread over all devices; whole, where they do not divide it."""
    place = mesh.placement((), on)
    if isinstance(place, NamedSharding) and shape[0] % place.mesh.size == 0:
        place = NamedSharding(place.mesh, PartitionSpec(mesh.AXES))
    return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

"""The objects that a config describes, except the data: network, model, loss, optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import optax
from jax import Array
from ml_collections import ConfigDict

from dpm_jax import bound, cold
from dpm_jax.distributions import level
from dpm_jax.errors import UserError
from dpm_jax.model import Model
from dpm_jax.training.optimizers import LearningRate
from dpm_jax.training.settings import Evaluate, Train

__all__ = ["Experiment", "Memory", "Params", "Restoration", "Streams", "check_denoiser", "check_size", "streams"]

Params = dict[str, Any]
# A pytree of arrays.
Memory = Any


class Streams(NamedTuple):
    """The keys of a run, one for each use.

    Attributes:
      init: of the parameters.
      train: step s folds in s, so that resuming needs no state of a generator.
      validation: of the comparison of checkpoints.
      degradation: of a cold chain's random degradation, the same at every step.
    """

    init: Array
    train: Array
    validation: Array
    degradation: Array


def streams(seed: int) -> Streams:
    """Return the keys of the run with this seed."""
    return Streams(*jax.random.split(jax.random.key(seed), 4))


class Outputs(Protocol):
    """See `Experiment`."""

    def __call__(self, params: Params, x_t: Array, t: Array, key: Array | None = None) -> Array:
        """Return the outputs."""


class Restoration(NamedTuple):
    """The parts of a cold chain.

    Attributes:
      degrade: (key, x_0, t) -> x_t.
      restore: parameters -> (x_t, t) -> x_hat_0.
      start: (parameters, shape of one image) -> the law of x_T that chains begin at.
    """

    degrade: cold.Keyed
    restore: Callable[[Params], cold.Restore]
    start: Callable[[Params, tuple[int, ...]], level.Level]


class Experiment(NamedTuple):
    """The objects of one config, but for the data: a trained model is sampled without them.

    Attributes:
      config: what it was built from, for the record.
      shape: of one example.
      seed: of everything random.
      num_timesteps: T.
      edge: how p(x_0 | x_1) is treated, see `bound`.
      binary: whether examples are bits.
      full_covariance: whether the steps have one.
      module: the network.
      train: how to train.
      evaluate: how to evaluate.
      ema_decay: of the average of parameters.
      init: key -> parameters.
      network: (parameters, x_t, t, key=None) -> outputs, the bare network; with a key, as in training, it drops out.
      model: (parameters, key=None) -> `Model`; traceable. It has the config's edge at t = 1. The model of a cold
        chain is for `sampling` alone, of images of this shape.
      cold: what a cold chain has in place of noise; None where there is noise.
      data: examples -> what K is evaluated of: with edge "grid", the level nearest to each pixel.
      memory: what the loss remembers from step to step, before the first; empty where it needs none.
      loss: (parameters, key, x_0, memory) -> the training loss, and the memory with what was seen. Where
        `loss_is_bound` it is -K in nats, an estimate from one t an example; its terms weighted where
        the config says so.
      validation_loss: (parameters, key, x_0) -> by which one checkpoint is better than another, [B] of the examples
        and the standard error of its mean: -K in nats whatever the objective, an estimate from one t an example; of a
        cold chain the loss.
      optimizer: Optax transformation.
      learning_rate: step -> learning rate, for logs.
    """

    config: ConfigDict
    shape: tuple[int, ...]
    seed: int
    num_timesteps: int
    edge: bound.Edge
    binary: bool
    full_covariance: bool
    module: nn.Module
    train: Train
    evaluate: Evaluate
    ema_decay: float
    init: Callable[[Array], Params]
    network: Outputs
    model: Callable[..., Model]
    cold: Restoration | None
    data: Callable[[Array], Array]
    memory: Memory
    loss: Callable[[Params, Array, Array, Memory], tuple[Array, Memory]]
    validation_loss: Callable[[Params, Array, Array], tuple[Array, Array]]
    optimizer: optax.GradientTransformation
    learning_rate: LearningRate

    @property
    def is_cold(self) -> bool:
        """Whether the chain has no noise, and so no likelihood."""
        return self.cold is not None

    @property
    def validation_is_bound(self) -> bool:
        """Whether `validation_loss` is in nats, and comes to -K."""
        return not self.is_cold

    @property
    def loss_is_bound(self) -> bool:
        """Whether the loss is in nats, and comes to -K, or its terms' weighted sum."""
        return self.train.objective in ("bound", "limit")


def check_denoiser(experiment: Experiment, params: Params, flag: str) -> None:
    """See that the model knows p(x_0 | x_t), which other chains of the same network need.

    Args:
      experiment: what was trained.
      params: its parameters.
      flag: what needs it, for messages.

    Raises:
      UserError: if it is given by its reverse steps alone, saying by which setting.
    """
    if experiment.model(params).denoise is None:
        name = "prediction" if experiment.binary else "variance"
        raise UserError(
            f"{flag}: needs the model's denoiser, p(x_0 | x_t), and steps of config.reverse.{name} "
            f"'{experiment.config.reverse[name]}' have none"
        )


def check_size(experiment: Experiment, height: int, width: int | None = None, flag: str = "--size") -> None:
    """See that the network can be called on images of another size than it was trained on.

    Args:
      experiment: what was trained.
      height: of the images, in pixels.
      width: the same as the height if None.
      flag: where the size comes from, for messages.

    Raises:
      UserError: if it can't, saying why.
    """
    trained = experiment.shape
    if len(trained) != 3:
        raise UserError(f"{flag}: is for images")
    shape = (height, height if width is None else width, trained[-1])
    check: Callable[..., None] | None = getattr(experiment.module, "check_shape", None)
    if shape == trained or check is None:
        return
    try:
        check(shape, trained)
    except ValueError as error:
        raise UserError(f"{flag}: the network {error}") from None

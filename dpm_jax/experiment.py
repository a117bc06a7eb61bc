"""From a config to the objects that it names. The one place where a config is read."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from ml_collections import ConfigDict

from dpm_jax import binomial, bound, gaussian, schedules, timesteps
from dpm_jax import config as config_lib
from dpm_jax.bound import Edge
from dpm_jax.data import sources
from dpm_jax.data.sources import Source
from dpm_jax.errors import UserError
from dpm_jax.models import RBF, SigmoidMLP, TimeMLP
from dpm_jax.schedules import Schedule
from dpm_jax.types import Kernel, Reverse

__all__ = ["Experiment", "Model", "Params", "build", "open_source"]

Params = dict[str, Any]

# The algebra of full covariances is unrolled over dimensions: compilation takes seconds at 4, minutes at 10.
_MAX_FULL_DIM = 6


class Model(NamedTuple):
    """A trained (or initial) model: what `bound` and `sampling` take."""

    schedule: Schedule
    reverse: Reverse


class Experiment(NamedTuple):
    """The objects of one config, but for the data: a trained model is sampled without them.

    Attributes:
      config: what it was built from.
      shape: of one example.
      kernel: the module `gaussian` or `binomial`.
      init: key -> parameters.
      network: (parameters, x_t, t) -> outputs, the bare network.
      model: parameters -> `Model`; traceable. Its reverse function has the config's edge at t = 1.
      loss: (parameters, key, x_0) -> -K in nats, an estimate from one t an example.
      optimizer: Optax transformation.
      learning_rate: step -> learning rate, for logs.
    """

    config: ConfigDict
    shape: tuple[int, ...]
    kernel: Kernel
    init: Callable[[Array], Params]
    network: Callable[[Params, Array, Array], Array]
    model: Callable[[Params], Model]
    loss: Callable[[Params, Array, Array], Array]
    optimizer: optax.GradientTransformation
    learning_rate: Callable[[Array], Array]

    @property
    def edge(self) -> Edge:
        """How p(x_0 | x_1) is treated."""
        return self.config.edge  # type: ignore[no-any-return]


def build(config: ConfigDict, shape: tuple[int, ...]) -> Experiment:
    """The experiment that a config describes, for examples of this shape.

    Args:
      config: see `config.default`.
      shape: of one example; `open_source(config).shape`, or what the workdir remembers of it.

    Raises:
      UserError: if the config is not valid.
    """
    config_lib.check(config)
    kernel: Any = {"gaussian": gaussian, "binomial": binomial}[config.kernel]
    base = _schedule(config)
    module, to_distribution = _network(config, kernel, base, math.prod(shape))

    def init(key: Array) -> Params:
        x, t = jnp.zeros((1, *shape)), jnp.ones(1, jnp.int32)
        params: Params = {"network": module.init(key, x, t)["params"]}
        if config.schedule.learned:
            params["schedule"] = jnp.zeros(config.schedule.num_bumps)
        return params

    def network(params: Params, x_t: Array, t: Array) -> Array:
        # float32 means float32: accelerators would multiply in fewer bits.
        with jax.default_matmul_precision("highest"):
            outputs: Any = module.apply({"params": params["network"]}, x_t, t)
        return outputs  # type: ignore[no-any-return]

    def model(params: Params) -> Model:
        schedule = schedules.learned(base, params["schedule"]) if "schedule" in params else base

        def reverse(x_t: Array, t: Array) -> Any:
            return to_distribution(schedule, x_t, t, network(params, x_t, t))

        return Model(schedule, kernel.forward_edge(schedule, reverse) if config.edge == "forward" else reverse)

    time_sampler = getattr(timesteps, config.train.time_sampler)

    def loss(params: Params, key: Array, x_0: Array) -> Array:
        schedule, reverse = model(params)
        return -bound.estimate(key, kernel, schedule, reverse, x_0, edge=config.edge, time_sampler=time_sampler).mean

    learning_rate = _learning_rate(config)
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.optimizer.clip_norm),
        optax.adam(learning_rate, config.optimizer.b1, config.optimizer.b2),
    )
    return Experiment(config, shape, kernel, init, network, model, loss, optimizer, learning_rate)


def _schedule(config: ConfigDict) -> Schedule:
    name = config.schedule.name
    try:
        schedule: Schedule = getattr(schedules, name)(config.num_timesteps, **config.schedule[name].to_dict())
    except ValueError as error:
        raise UserError(f"config.schedule.{name}: {error}") from None
    if config.kernel == "gaussian" and not bool(jnp.isfinite(schedule.log_nsr[-1])):
        raise UserError(f"config.schedule.{name}: kernel 'gaussian' needs alpha_bar_T > 0; raise alpha_bar_final")
    return schedule


def open_source(config: ConfigDict, data_dir: str | None = None) -> Source:
    """The data that a config describes.

    Args:
      config: see `config.default`.
      data_dir: folder that data files are looked for in; None for the current one.

    Raises:
      UserError: if the config is not valid, or its data are not there or not fit.
    """
    config_lib.check(config)
    data = config.data
    if data.name == "swiss_roll":
        return sources.swiss_roll_source(data.swiss_roll.noise)
    if data.name == "heartbeat":
        return sources.heartbeat_source(data.heartbeat.length, data.heartbeat.period)
    try:
        return sources.file(Path(data_dir or ".") / data.file.path, data.file.held_out, config.kernel == "binomial")
    except ValueError as error:
        raise UserError(f"config.data.file.path: {error}") from None


def _network(config: ConfigDict, kernel: Any, base: Schedule, dim: int) -> tuple[nn.Module, Callable[..., Any]]:
    """The network, and the kernel's function that turns its outputs into a distribution."""
    if config.reverse.covariance == "full" and dim > _MAX_FULL_DIM:
        raise UserError(
            f"config.reverse.covariance: 'full' is for up to {_MAX_FULL_DIM} dimensions, the data have {dim}; "
            "use 'diagonal'"
        )
    if config.kernel == "binomial":
        num_outputs = dim
    elif config.reverse.covariance == "full":
        num_outputs = dim + dim * (dim + 1) // 2
    else:
        num_outputs = 2 * dim
    full = "full_" if config.reverse.covariance == "full" else ""
    to_distribution = getattr(kernel, f"{config.reverse.parameterization}_{full}reverse")

    name = config.network.name
    settings = config.network[name].to_dict()
    network: nn.Module
    if name == "time_mlp":
        network = TimeMLP(num_outputs=num_outputs, clock=_clock(base), **settings)
    elif name == "sigmoid_mlp":
        network = SigmoidMLP(num_outputs=num_outputs, num_timesteps=config.num_timesteps, **settings)
    else:
        network = RBF(num_outputs=num_outputs, num_timesteps=config.num_timesteps, **settings)
    return network, to_distribution


def _clock(schedule: Schedule) -> Callable[[Array], Array]:
    """t -> position in [0, 1], linear in log nu: the network resolves every noise level alike."""
    log_nsr = np.asarray(schedule.log_nsr[1:], np.float64)
    log_nsr = np.minimum(log_nsr, log_nsr[np.isfinite(log_nsr)].max(initial=0.0))
    span = max(log_nsr[-1] - log_nsr[0], 1e-9)
    position = jnp.asarray(np.concatenate([[0.0], (log_nsr - log_nsr[0]) / span]), jnp.float32)
    return lambda t: position[t]


def _learning_rate(config: ConfigDict) -> Callable[[Array], Array]:
    settings = config.optimizer
    warmup = min(settings.warmup_steps, config.train.steps // 2)
    return optax.warmup_cosine_decay_schedule(  # type: ignore[no-any-return]
        init_value=settings.learning_rate if warmup == 0 else 0.0,
        peak_value=settings.learning_rate,
        warmup_steps=warmup,
        decay_steps=max(config.train.steps, warmup + 1),
        end_value=settings.learning_rate * settings.final_fraction,
    )

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
from dpm_jax.data import arrays, folder, image_set, sources, tfds
from dpm_jax.data.image_set import ImageSet
from dpm_jax.data.sources import Source
from dpm_jax.errors import UserError
from dpm_jax.models import RBF, MultiscaleNet, SigmoidMLP, TimeMLP, UNet
from dpm_jax.schedules import Schedule
from dpm_jax.types import Kernel, Model

__all__ = ["Experiment", "Params", "build", "check_size", "grid_factor", "open_source"]

Params = dict[str, Any]

# The algebra of full covariances is unrolled over dimensions: compilation takes seconds at 4, minutes at 10.
_MAX_FULL_DIM = 6

_VECTOR_NETWORKS = ("time_mlp", "sigmoid_mlp", "rbf")
_IMAGE_NETWORKS = ("multiscale", "unet")


class Experiment(NamedTuple):
    """The objects of one config, but for the data: a trained model is sampled without them.

    Attributes:
      config: what it was built from.
      shape: of one example.
      kernel: the module `gaussian` or `binomial`.
      init: key -> parameters.
      network: (parameters, x_t, t) -> outputs, the bare network.
      model: parameters -> `Model`; traceable. Its reverse function has the config's edge at t = 1.
      loss: (parameters, key, x_0) -> -K in nats, an estimate from one t an example; its terms weighted
        where the config says so.
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
    module, to_distribution = _network(config, kernel, base, shape)

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
    if config.train.emphasis > 0:
        time_sampler = timesteps.emphasis(base.sigma2**config.train.emphasis)

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
    crop = data.crop or None
    try:
        if data.name == "swiss_roll":
            return sources.swiss_roll_source(data.swiss_roll.noise)
        if data.name == "heartbeat":
            return sources.heartbeat_source(data.heartbeat.length, data.heartbeat.period)
        if data.name == "dead_leaves":
            return sources.dead_leaves_source(**data.dead_leaves.to_dict())
        if data.name == "tfds":
            settings = data.tfds.to_dict()
            where = None if data_dir is None else Path(data_dir)
            return sources.image_source(tfds.load(settings.pop("dataset"), data_dir=where, crop=crop, **settings))
        if data.name == "folder":
            return sources.image_source(_folder(Path(data_dir or ".") / data.folder.path, data.folder, crop))
        return _file(Path(data_dir or ".") / data.file.path, config, crop)
    except ValueError as error:
        raise UserError(f"config.data.{data.name}: {error}") from None


def _folder(path: Path, settings: ConfigDict, crop: int | None) -> ImageSet:
    named = folder.load(path, settings.on_error, hint="; --config.data.folder.on_error=skip leaves it out")
    image_set.check_shapes([(name, image.shape) for name, image in named], crop)
    return image_set.split([image for _, image in named], settings.held_out, crop)


def _file(path: Path, config: ConfigDict, crop: int | None) -> Source:
    data, binary = arrays.load(path), config.kernel == "binomial"
    if data.ndim == 2:
        if crop is not None:
            raise ValueError(f"{path} holds vectors, which are not cut; leave config.data.crop 0")
        return sources.vector_source(path, data, config.data.file.held_out, binary)
    if binary:
        raise ValueError(f"{path} holds images; kernel 'binomial' takes bits, [N, d]")
    image_set.check_shapes([(path.name, data.shape[1:])], crop)
    return sources.image_source(ImageSet(*arrays.split(data, config.data.file.held_out), crop))


def _network(
    config: ConfigDict, kernel: Any, base: Schedule, shape: tuple[int, ...]
) -> tuple[nn.Module, Callable[..., Any]]:
    """The network, and the kernel's function that turns its outputs into a distribution."""
    _check_shape(config, shape)
    dim = shape[-1]
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
    classes = {"time_mlp": TimeMLP, "sigmoid_mlp": SigmoidMLP, "rbf": RBF, "multiscale": MultiscaleNet, "unet": UNet}
    if name in ("sigmoid_mlp", "rbf"):
        settings["num_timesteps"] = config.num_timesteps
    else:
        settings["clock"] = _clock(base)
    if name in _IMAGE_NETWORKS:
        settings["dtype"] = jnp.dtype(config.network.dtype)
    module: nn.Module = classes[name](num_outputs=num_outputs, **settings)
    return module, to_distribution


def _check_shape(config: ConfigDict, shape: tuple[int, ...]) -> None:
    """See that the network fits examples of this shape."""
    name = config.network.name
    if (name in _IMAGE_NETWORKS) != (len(shape) == 3):
        kind, fitting = ("images", _IMAGE_NETWORKS) if len(shape) == 3 else ("vectors", _VECTOR_NETWORKS)
        raise UserError(f"config.network.name: '{name}' does not take {kind}; use {' or '.join(fitting)}")
    if config.reverse.covariance == "full" and (len(shape) > 1 or shape[-1] > _MAX_FULL_DIM):
        raise UserError(
            f"config.reverse.covariance: 'full' is for up to {_MAX_FULL_DIM} dimensions, the data have "
            f"{math.prod(shape)}; use 'diagonal'"
        )
    if len(shape) == 3:
        factor = grid_factor(config)
        if shape[0] % factor or shape[1] % factor:
            raise UserError(
                f"config.network.{name}: images of {shape[0]}x{shape[1]} are not divisible by {factor}, the pixels "
                "of its coarsest scale; use fewer scales or levels, or config.data.crop"
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
    config = experiment.config
    if len(experiment.shape) != 3:
        raise UserError(f"{flag}: is for images")
    got, must = (
        (str(height), "must be a multiple") if width is None else (f"{height}x{width}", "sides must be multiples")
    )
    width = height if width is None else width
    trained = f"{experiment.shape[0]}x{experiment.shape[1]}"
    if experiment.shape[:2] == (height, width):
        return
    network = config.network[config.network.name]
    if config.network.name == "multiscale" and network.dense_layers:
        raise UserError(f"{flag}: a dense path takes images of {trained} only, got {got}")
    if config.network.name == "unet" and network.attention:
        raise UserError(
            f"{flag}: attention was trained at one size, {trained}, got {got}; "
            "train with --config.network.unet.attention=False"
        )
    if height % (factor := grid_factor(config)) or width % factor:
        raise UserError(f"{flag}: {must} of {factor}, the pixels of the network's coarsest scale, got {got}")


def grid_factor(config: ConfigDict) -> int:
    """Height and width of the images that a config's network takes are multiples of this."""
    if config.network.name == "unet":
        return config.network.unet.patch_size * 2 ** (len(config.network.unet.features) - 1)  # type: ignore[no-any-return]
    return 2 ** (config.network.multiscale.num_scales - 1)  # type: ignore[no-any-return]


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

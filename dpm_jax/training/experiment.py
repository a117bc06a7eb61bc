"""From a config to the objects that it names. The one place where a config is read."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from ml_collections import ConfigDict

from dpm_jax import bound, cold, degradations, objectives, predictions, schedules, timesteps
from dpm_jax.bound import Edge
from dpm_jax.data import arrays, folder, image_set, sources, tfds
from dpm_jax.data.image_set import ImageSet
from dpm_jax.data.sources import Source
from dpm_jax.distributions import level
from dpm_jax.errors import UserError
from dpm_jax.model import Model, forward_edge
from dpm_jax.nets import RBF, MultiscaleNet, SigmoidMLP, TimeMLP, UNet
from dpm_jax.predictions import Network
from dpm_jax.processes import Binomial, Gaussian
from dpm_jax.schedules import Schedule
from dpm_jax.training import config as config_lib
from dpm_jax.training import mesh, optimizers
from dpm_jax.training.optimizers import LearningRate

__all__ = [
    "Experiment",
    "Memory",
    "Params",
    "Restoration",
    "Streams",
    "build",
    "check_denoiser",
    "check_size",
    "grid_factor",
    "open_source",
    "streams",
]

Params = dict[str, Any]
# A pytree of arrays.
Memory = Any

# The algebra of full covariances is unrolled over dimensions: compilation takes seconds at 4, minutes at 10.
_MAX_FULL_DIM = 6

# How much faster the scales of a cold chain's start are learned than the weights.
_START_RATE = 5.0

# Share of the variance that may be the data's when the forward chain ends. The bound holds for any, but is of no use.
_MOST_LEFT = 0.5

# The greatest factor by which an error of a predicted epsilon may enter x_{t-1}. It is 32 where beta_t is at most
# 0.999, as in cosine schedules, and has no limit where one step erases all signal.
_MOST_AMPLIFIED = 100.0

_VECTOR_NETWORKS = ("time_mlp", "sigmoid_mlp", "rbf")
_IMAGE_NETWORKS = ("multiscale", "unet")


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
        """Outputs."""


class Restoration(NamedTuple):
    """Of cold diffusion.

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
      config: what it was built from.
      shape: of one example.
      init: key -> parameters.
      network: (parameters, x_t, t, key=None) -> outputs, the bare network; with a key, as in training, it drops out.
      model: (parameters, key=None) -> `Model`; traceable. It has the config's edge at t = 1. That of a cold chain is
        for `sampling` alone, of images of this shape.
      cold: what a cold chain has in place of noise; None where there is noise.
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
    init: Callable[[Array], Params]
    network: Outputs
    model: Callable[..., Model]
    cold: Restoration | None
    memory: Memory
    loss: Callable[[Params, Array, Array, Memory], tuple[Array, Memory]]
    validation_loss: Callable[[Params, Array, Array], tuple[Array, Array]]
    optimizer: optax.GradientTransformation
    learning_rate: LearningRate

    @property
    def edge(self) -> Edge:
        """How p(x_0 | x_1) is treated."""
        return self.config.edge  # type: ignore[no-any-return]

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
        """Whether the loss is in nats, and comes to -K."""
        return self.config.train.objective == "bound"  # type: ignore[no-any-return]


def build(config: ConfigDict, shape: tuple[int, ...]) -> Experiment:
    """The experiment that a config describes, for examples of this shape.

    Args:
      config: see `config.default`.
      shape: of one example; `open_source(config).shape`, or what the workdir remembers of it.

    Raises:
      UserError: if the config is not valid.
    """
    config_lib.check(config)
    if config.kernel == "cold":
        return _build_cold(config, shape)
    base = _schedule(config)
    module, to_model = _network(config, base, shape)

    def init(key: Array) -> Params:
        x, t = jnp.zeros((1, *shape)), jnp.ones(1, jnp.int32)
        params: Params = {"network": module.init(key, x, t)["params"]}
        if config.schedule.learned:
            params["schedule"] = jnp.zeros(config.schedule.num_bumps)
        return params

    network = _applied(module, config.network.precision)

    def model(params: Params, key: Array | None = None) -> Model:
        schedule = schedules.learned(base, params["schedule"]) if "schedule" in params else base
        made = to_model(schedule, lambda x_t, t: network(params, x_t, t, key))
        return forward_edge(made) if config.edge == "forward" else made

    def validation_loss(params: Params, key: Array, x_0: Array) -> tuple[Array, Array]:
        found = bound.estimate(key, model(params), x_0, edge=config.edge)
        return -found.k, found.stderr

    optimizer, learning_rate = optimizers.build(config.optimizer, config.train.steps)
    memory, loss = _loss(config, base, model)
    return Experiment(
        config, shape, init, network, model, None, memory, loss, validation_loss, optimizer, learning_rate
    )


def _build_cold(config: ConfigDict, shape: tuple[int, ...]) -> Experiment:
    """Of a degradation, in place of noise."""
    name, num_timesteps = config.cold.degradation, config.num_timesteps
    settings = config.cold[name].to_dict() if name in config.cold else {}
    try:
        degrade = getattr(degradations, name)(num_timesteps, **settings)
    except ValueError as error:
        raise UserError(f"config.cold.{name}: {error}") from None
    if len(shape) != 3:
        raise UserError(f"config.kernel: 'cold' degrades images, and the data are of shape {shape}")
    _check_shape(config, shape)
    module = _module(config, shape[-1], lambda t: t / num_timesteps)

    def init(key: Array) -> Params:
        x, t = jnp.zeros((1, *shape)), jnp.ones(1, jnp.int32)
        start = level.standard(shape[-1])
        # The name that checkpoints have it by.
        start["mean"] = start.pop("location")
        return {"network": module.init(key, x, t)["params"], "start": start}

    network = _applied(module, config.network.precision)

    def restorer(params: Params, key: Array | None = None) -> cold.Restore:
        return lambda x_t, t: x_t + network(params, x_t, t, key)

    def start(params: Params, shape: tuple[int, ...]) -> level.Level:
        fitted = params["start"]
        # Logarithms of scales have a long way to go, at the rate of the network's weights too long a one.
        log_scale, log_noise = (_START_RATE * fitted[name] for name in ("log_scale", "log_noise"))
        return level.Level(shape, fitted["mean"], log_scale, log_noise, fitted["mixing"])

    # A random degradation is the same at every step of a chain.
    degradation_key = streams(config.seed).degradation

    def model(params: Params, key: Array | None = None) -> Model:
        law, restore = start(params, shape), restorer(params, key)
        return cold.model(degrade, restore, num_timesteps, law, rule=config.cold.rule, key=degradation_key)

    def loss_of(restore: cold.Restore, params: Params, key: Array, x_0: Array) -> Array:
        loss_key, last_key = jax.random.split(key)
        restored = cold.restoration_errors(loss_key, degrade, restore, x_0, num_timesteps, norm=config.cold.norm)
        x_last = cold.keyed(degrade)(last_key, x_0, jnp.full(x_0.shape[0], num_timesteps, jnp.int32))
        return restored + cold.start_losses(start(params, x_0.shape[1:]), x_last)

    def loss(params: Params, key: Array, x_0: Array, memory: Memory) -> tuple[Array, Memory]:
        dropout_key, noise_key = jax.random.split(key)
        return loss_of(restorer(params, dropout_key), params, noise_key, x_0).mean(), memory

    def validation_loss(params: Params, key: Array, x_0: Array) -> tuple[Array, Array]:
        losses = loss_of(restorer(params), params, key, x_0)
        return losses, bound.mean_and_stderr(losses).stderr

    optimizer, learning_rate = optimizers.build(config.optimizer, config.train.steps)
    parts = Restoration(cold.keyed(degrade), restorer, start)
    return Experiment(config, shape, init, network, model, parts, (), loss, validation_loss, optimizer, learning_rate)


def _applied(module: nn.Module, precision: str) -> Outputs:
    def network(params: Params, x_t: Array, t: Array, key: Array | None = None) -> Array:
        rngs = {} if key is None else {"dropout": key}
        # Accelerators would multiply float32 numbers in fewer bits.
        with jax.default_matmul_precision(precision):
            outputs: Any = module.apply({"params": params["network"]}, mesh.spread(x_t), t, rngs=rngs)
        return outputs  # type: ignore[no-any-return]

    return network


def _loss(
    config: ConfigDict, base: Schedule, model: Callable[..., Model]
) -> tuple[Memory, Callable[[Params, Array, Array, Memory], tuple[Array, Memory]]]:
    """The memory that training begins with, and the loss."""
    settings, edge = config.train, config.edge
    if settings.time_sampler == "importance":

        def remembering(params: Params, key: Array, x_0: Array, table: Memory) -> tuple[Array, Memory]:
            sampler = timesteps.importance(timesteps.probabilities(table))
            dropout_key, noise_key = jax.random.split(key)
            found = bound.estimate(noise_key, model(params, dropout_key), x_0, edge=edge, time_sampler=sampler)
            return -found.mean, timesteps.record(table, found.t, jax.lax.stop_gradient(found.kl))

        return timesteps.table(config.num_timesteps), remembering

    sampler = getattr(timesteps, settings.time_sampler)
    if settings.emphasis > 0:
        sampler = timesteps.emphasis(base.sigma2**settings.emphasis)

    def loss(params: Params, key: Array, x_0: Array, memory: Memory) -> tuple[Array, Memory]:
        dropout_key, noise_key = jax.random.split(key)
        dropping = model(params, dropout_key)
        if settings.objective == "simple":
            value = objectives.simple(noise_key, dropping, x_0, edge=edge, time_sampler=sampler)
        elif settings.objective == "hybrid":
            value = objectives.hybrid(noise_key, dropping, x_0, edge=edge, time_sampler=sampler)
        elif settings.objective == "sample_mse":
            value = objectives.sample_mse(noise_key, dropping, x_0, time_sampler=sampler)
        else:
            value = -bound.estimate(noise_key, dropping, x_0, edge=edge, time_sampler=sampler).mean
        return value, memory

    return (), loss


def _schedule(config: ConfigDict) -> Schedule:
    name = config.schedule.name
    try:
        schedule: Schedule = getattr(schedules, name)(config.num_timesteps, **config.schedule[name].to_dict())
    except ValueError as error:
        raise UserError(f"config.schedule.{name}: {error}") from None
    if config.kernel == "gaussian" and not bool(jnp.isfinite(schedule.log_nsr[-1])):
        raise UserError(f"config.schedule.{name}: kernel 'gaussian' needs alpha_bar_T > 0; raise alpha_bar_final")
    left = float(schedule.alpha_bar[-1])
    if left > _MOST_LEFT:
        raise UserError(
            f"config.schedule.{name}: after T = {config.num_timesteps} steps alpha_bar_T = {left:.2g} of the data is "
            "left, and the prior knows nothing of it; raise num_timesteps, or the betas"
        )
    _check_amplification(config, schedule)
    return schedule


def _check_amplification(config: ConfigDict, schedule: Schedule) -> None:
    """Refuse predictions that are divided by a signal which one step erases.

    The guess of x_0 is divided by sqrt(alpha_bar_t), so an error of a predicted epsilon or residual is
    beta_t / (sqrt(1 - beta_t) sigma_t) times as large in the mean of x_{t-1}.
    """
    if config.kernel != "gaussian" or config.reverse.prediction not in ("epsilon", "residual"):
        return
    log_nsr = np.asarray(schedule.log_nsr[1:], np.float64)
    log_left = np.logaddexp(0, log_nsr[:-1]) - np.logaddexp(0, log_nsr[1:])  # log(1 - beta_t), t = 2..T
    factor = -np.expm1(log_left) / np.exp(log_left / 2) / np.sqrt(np.asarray(schedule.sigma2[2:], np.float64))
    if factor.size and factor.max() > _MOST_AMPLIFIED:
        t = 2 + int(factor.argmax())
        raise UserError(
            f"config.reverse.prediction: '{config.reverse.prediction}' is divided by the signal, of which step t = {t} "
            f"of schedule '{config.schedule.name}' leaves 1 - beta_t = {math.exp(log_left[t - 2]):.1g}; use v or x_0, "
            "or a schedule of smaller steps (more timesteps, less noise at the end)"
        )


def open_source(
    config: ConfigDict,
    data_dir: str | None = None,
    *,
    download: tfds.Download = "never",
    report: Callable[[str], None] = print,
) -> Source:
    """Open the data that a config describes.

    Args:
      config: see `config.default`.
      data_dir: folder that data files are looked for in; None for the current one, and for that of TFDS.
      download: what to do where a TFDS dataset is not prepared there.
      report: told how much was read and what was left out, and before something is downloaded.

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
            name = settings.pop("dataset")
            images = tfds.load(name, data_dir=where, crop=crop, download=download, report=report, **settings)
            return sources.image_source(images, data.validation)
        if data.name == "folder":
            images = _folder(Path(data_dir or ".") / data.folder.path, data.folder, crop, report)
            return sources.image_source(images, data.validation)
        return _file(Path(data_dir or ".") / data.file.path, config, crop, report)
    except ValueError as error:
        raise UserError(f"config.data.{data.name}: {error}") from None


def _folder(path: Path, settings: ConfigDict, crop: int | None, report: Callable[[str], None]) -> ImageSet:
    hint = "; --config.data.folder.on_error=skip leaves it out"
    named = folder.load(path, settings.on_error, hint, lambda line: report(f"data: {line}"))
    image_set.check_shapes([(name, image.shape) for name, image in named], crop)
    return image_set.split([image for _, image in named], settings.held_out, crop)


def _file(path: Path, config: ConfigDict, crop: int | None, report: Callable[[str], None]) -> Source:
    data, settings, binary = arrays.load(path), config.data.file, config.kernel == "binomial"
    validation = config.data.validation
    names = "rows", "columns"
    if data.ndim > 2:
        names = "images", "pixels"
        if binary:
            raise ValueError(f"{path} holds images; kernel 'binomial' takes bits, [N, d]")
        image_set.check_shapes([(path.name, data.shape[1:])], crop)
    elif crop is not None:
        raise ValueError(f"{path} holds vectors, which are not cut; leave config.data.crop 0")
    report(f"data: {len(data)} {names[0]} of {' x '.join(map(str, data.shape[1:]))} from {path}")
    integers = np.zeros(data.shape[1:2] if data.ndim == 2 else (), bool)
    if settings.integers == "dequantize" and not binary and data.dtype != np.uint8:
        integers = arrays.integers(data)
    if integers.any():
        which = "pixels" if data.ndim > 2 else f"columns {', '.join(map(str, np.flatnonzero(integers)))}"
        report(
            f"data: {which} hold integers only, so noise of one step is added to them, and K bounds their probability; "
            "--config.data.file.integers=real takes them as real numbers"
        )
    if data.ndim == 2:
        leave_out = settings.constant_columns == "leave_out"
        return sources.vector_source(path, data, settings.held_out, binary, validation, integers, leave_out)
    if integers and data.min() >= 0 and data.max() <= 255:
        data, integers = data.astype(np.uint8), np.asarray(False)
    return sources.image_source(ImageSet(*arrays.split(data, settings.held_out), crop), validation, bool(integers))


def _network(
    config: ConfigDict, base: Schedule, shape: tuple[int, ...]
) -> tuple[nn.Module, Callable[[Schedule, Network], Model]]:
    """The network, and (schedule, (x_t, t) -> its outputs) -> the model that they make."""
    _check_shape(config, shape)
    dim, settings = shape[-1], config.reverse
    process: Callable[[Schedule], Any] = Gaussian
    to_model: Callable[..., Model]
    if config.kernel == "binomial":
        num_outputs, process, to_model = dim, Binomial, predictions.binomial
    elif settings.covariance == "full":
        num_outputs, to_model = dim + dim * (dim + 1) // 2, predictions.full_gaussian
    else:
        num_outputs = predictions.num_outputs(dim, settings.variance)
        to_model = partial(predictions.gaussian, variance=settings.variance)

    def of_outputs(schedule: Schedule, outputs: Network) -> Model:
        return to_model(process(schedule), outputs, prediction=settings.prediction)

    return _module(config, num_outputs, _clock(base)), of_outputs


def _module(config: ConfigDict, num_outputs: int, clock: Callable[[Array], Array]) -> nn.Module:
    name = config.network.name
    settings = config.network[name].to_dict()
    classes = {"time_mlp": TimeMLP, "sigmoid_mlp": SigmoidMLP, "rbf": RBF, "multiscale": MultiscaleNet, "unet": UNet}
    if name in ("sigmoid_mlp", "rbf"):
        settings["num_timesteps"] = config.num_timesteps
    else:
        settings["clock"] = clock
    if name in _IMAGE_NETWORKS:
        settings["dtype"] = jnp.dtype(config.network.dtype)
    module: nn.Module = classes[name](num_outputs=num_outputs, **settings)
    return module


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
        config = experiment.config
        name = "prediction" if config.kernel == "binomial" else "variance"
        raise UserError(
            f"{flag}: needs the model's denoiser, p(x_0 | x_t), and steps of config.reverse.{name} "
            f"'{config.reverse[name]}' have none"
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

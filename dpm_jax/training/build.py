"""From a config to the objects that it describes. The one reader of configs.

A part of a config (network, data, schedule, optimizer, objective, ...) is a callable that it names, see `parts`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from dpm_jax import bound, coloured, grey_levels, predictions, schedules, spectrum
from dpm_jax.data import own, tfds
from dpm_jax.data.sources import Source
from dpm_jax.data.standardization import Standardization, identity
from dpm_jax.distributions import Grid
from dpm_jax.errors import UserError
from dpm_jax.model import Model, forward_edge
from dpm_jax.numerics import refuse
from dpm_jax.numerics.shapes import level_at
from dpm_jax.predictions import Network
from dpm_jax.processes import Binomial, Gaussian
from dpm_jax.schedules import Schedule
from dpm_jax.training import build_cold, losses, networks, optimizers, parts
from dpm_jax.training import config as config_lib
from dpm_jax.training.experiment import Experiment, Params
from dpm_jax.training.settings import Evaluate, Train

__all__ = ["experiment", "source", "with_spectrum"]

# The algebra of full covariances is unrolled over dimensions: compilation takes seconds at 4, minutes at 10.
_MAX_FULL_DIM = 6

# Share of the variance that may be the data's when the forward chain ends. The bound holds for any, but is of no use.
_MOST_LEFT = 0.5

# Images that a spectrum is fitted to: its scales are then known to 1 %.
_FOR_SPECTRUM = 5000

# The greatest factor by which an error of a predicted epsilon may enter x_{t-1}. It is 32 where beta_t is at most
# 0.999, as in cosine schedules, and has no limit where one step erases all signal.
_MOST_AMPLIFIED = 100.0


class _Settings(NamedTuple):
    train: Train
    evaluate: Evaluate


def experiment(
    config: ConfigDict, shape: tuple[int, ...], standardization: Standardization | None = None
) -> Experiment:
    """Return the experiment that a config describes, for examples of this shape.

    Args:
      config: see `config.default`.
      shape: of one example; `source(config).shape`, or what the workdir remembers of it.
      standardization: of the data, where their levels or their spectrum are asked for.

    Raises:
      UserError: if the config is not valid.
    """
    settings = _checked(config)
    optimizer, learning_rate = optimizers.build(config.optimizer, settings.train.steps)
    if config.kernel == "cold":
        made = build_cold.cold(config, shape, settings.train)
    else:
        made = _with_likelihood(config, shape, settings.train, standardization or identity())
    return Experiment(
        config=config,
        shape=shape,
        seed=config.seed,
        num_timesteps=config.num_timesteps,
        binary=config.kernel == "binomial",
        full_covariance=config.reverse.covariance == "full",
        train=settings.train,
        evaluate=settings.evaluate,
        ema_decay=config.optimizer.ema_decay,
        optimizer=optimizer,
        learning_rate=learning_rate,
        **made,
    )


def _checked(config: ConfigDict) -> _Settings:
    """Refuse what no part knows."""
    config_lib.check(config)
    try:
        refuse.within("[0, 4294967295)", seed=config.seed)
        refuse.within("[1, inf)", num_timesteps=config.num_timesteps)
        refuse.one_of("kernel", config.kernel, ("gaussian", "binomial", "cold"))
        refuse.one_of("edge", config.edge, ("forward", "decoder", "grid"))
        refuse.one_of("noise", config.noise, ("white", "spectrum"))
        refuse.within("[-1, inf)", **{f"mesh.{name}": value for name, value in config.mesh.items()})
    except ValueError as error:
        raise UserError(f"config.{error}") from None
    return _Settings(
        parts.call(Train, config.train.to_dict(), "config.train"),
        parts.call(Evaluate, config.evaluate.to_dict(), "config.evaluate"),
    )


def source(
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
      report: called with lines about what was read and left out, and before a download.

    Raises:
      UserError: if the config is not valid, or its data are not there or not fit.
    """
    _checked(config)
    data, binary = config.data, config.kernel == "binomial"
    try:
        refuse.within("[0, 1)", validation=data.validation)
        refuse.within("[-1, inf)", crop=data.crop)
    except ValueError as error:
        raise UserError(f"config.data.{error}") from None
    part = parts.part(data, "config.data", parts.SHORT_NAMES["data"])
    crop = data.crop or None
    known = {"data_dir": data_dir, "crop": crop, "validation": data.validation, "binary": binary}
    make = partial(part, **known, download=download, report=report)
    if part.name in data:
        if crop and not part.takes("crop"):
            raise UserError(f"config.data.crop: data '{part.name}' are not cut; leave it 0")
        found: Source = make()
    else:
        try:
            found = own.own_source(make, part.name, binary=binary, crop=crop, validation=data.validation, report=report)
        except ValueError as error:
            raise UserError(f"config.data.name: {error}") from error
    if found.binary != binary and binary:
        kind = "images" if len(found.shape) == 3 else "real numbers"
        raise UserError(f"config.kernel: 'binomial' needs bits, and data '{part.name}' are {kind}")
    if found.binary != binary:
        raise UserError(f"config.kernel: data '{part.name}' are bits, which need kernel 'binomial'")
    return with_spectrum(found) if config.noise == "spectrum" else found


def with_spectrum(source: Source) -> Source:
    """Return the source with the spectrum of its images, which `config.noise` "spectrum" needs.

    Args:
      source: of images, [H, W, C].

    Raises:
      UserError: if its examples are no images.
    """
    if len(source.shape) != 3:
        raise UserError(f"config.noise: 'spectrum' is for images, and examples have shape {source.shape}")
    key, units = jax.random.key(0), source.standardization
    if source.train_examples is not None:
        images = units.spread(key, jnp.asarray(units.centres(source.train_examples(_FOR_SPECTRUM))))
    else:
        images = (source.validation or source.held_out)(key, _FOR_SPECTRUM)
    return source._replace(standardization=units._replace(spectrum=spectrum.fit(np.asarray(images))))


def _with_likelihood(
    config: ConfigDict, shape: tuple[int, ...], train: Train, standardization: Standardization
) -> dict[str, Any]:
    """Return the fields of an `Experiment` whose chain has noise."""
    grid, found = standardization.grid, _spectrum(config, standardization)
    if found is not None:
        grid = None  # The network sees images whose noise is white, and these have no levels.
    edge = _edge(config, grid)
    base = _schedule(config, grid)
    num_outputs, to_model = _reverse(config, shape, grid)
    module = networks.module(config, shape, num_outputs, _clock(base), grid=grid, log_nsr=_log_nsr(base))

    def init(key: Array) -> Params:
        params: Params = {"network": networks.init(module, key, shape)}
        if config.schedule.learned:
            params["schedule"] = jnp.zeros(config.schedule.num_bumps)
        if config.schedule.ends_learned:
            params["ends"] = jnp.zeros(2)
        return params

    network = networks.applied(module, config.network.precision)

    def model(params: Params, key: Array | None = None) -> Model:
        # The network's clock does not change with the ends; its features of levels keep the damping of `base`.
        schedule = schedules.with_ends(base, params["ends"]) if "ends" in params else base
        schedule = schedules.learned(schedule, params["schedule"]) if "schedule" in params else schedule
        made = to_model(schedule, lambda x_t, t: network(params, x_t, t, key))
        made = made if found is None else coloured.in_colour(made, found)
        return forward_edge(made) if edge == "forward" else made

    def data(x_0: Array) -> Array:
        return grid.nearest(x_0) if config.edge == "grid" and grid is not None else x_0

    def validation_loss(params: Params, key: Array, x_0: Array) -> tuple[Array, Array]:
        found = bound.estimate(key, model(params), data(x_0), edge=edge)
        return -found.k, found.stderr

    if train.objective == "limit":
        _check_real_times(module, shape, config.network.name)
    memory, loss = losses.loss(config, train, base, model, edge, data)
    return {
        "module": module,
        "init": init,
        "network": network,
        "model": model,
        "edge": edge,
        "data": data,
        "cold": None,
        "memory": memory,
        "loss": loss,
        "validation_loss": validation_loss,
    }


def _check_real_times(module: nn.Module, shape: tuple[int, ...], name: str) -> None:
    x, t = jax.ShapeDtypeStruct((2, *shape), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.float32)
    try:
        jax.eval_shape(lambda x, t: module.init(jax.random.key(0), x, t), x, t)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"config.train.objective: 'limit' looks at real times, which network '{name}' does not take: {error}"
        ) from error


def _spectrum(config: ConfigDict, standardization: Standardization) -> spectrum.Spectrum | None:
    if config.noise == "white":
        return None
    if config.kernel != "gaussian" or config.edge == "grid" or config.reverse.prediction == "levels":
        raise UserError(
            "config.noise: 'spectrum' is for kernel 'gaussian', without the levels of pixels; use edge 'forward' or "
            "'decoder', and another reverse.prediction than 'levels'"
        )
    if config.train.objective not in ("bound", "limit"):
        raise UserError(
            f"config.noise: 'spectrum' needs train.objective 'bound' or 'limit', got '{config.train.objective}'"
        )
    if standardization.spectrum is None:
        raise UserError("config.noise: 'spectrum' needs the standardization of its source")
    return standardization.spectrum


def _edge(config: ConfigDict, grid: Grid | None) -> bound.Edge:
    if config.edge != "grid":
        edge: bound.Edge = config.edge
        return edge
    if config.kernel != "gaussian" or config.reverse.covariance != "diagonal" or grid is None:
        raise UserError(
            "config.edge: 'grid' is a law of the levels of 8-bit pixels, for kernel 'gaussian' and covariance "
            "'diagonal'; use 'forward' or 'decoder'"
        )
    of_levels: Any = grid.log_prob
    return of_levels  # type: ignore[no-any-return]


def _schedule(config: ConfigDict, grid: Grid | None) -> Schedule:
    part = parts.part(config.schedule, "config.schedule", parts.SHORT_NAMES["schedule"])
    if config.edge == "grid" and grid is not None and part.takes("beta_1"):
        if not config.schedule.first_step > 0:
            raise UserError(f"config.schedule.first_step: must be positive, got {config.schedule.first_step:g}")
        part.arguments["beta_1"] = (config.schedule.first_step * grid.width) ** 2
    schedule = part(num_timesteps=config.num_timesteps)
    field = part.field if part.name in config.schedule else "config.schedule.name"
    if not isinstance(schedule, Schedule):
        raise UserError(f"{field}: must return a dpm_jax.Schedule, got {type(schedule).__name__}")
    if schedule.num_timesteps != config.num_timesteps:
        raise UserError(f"{field}: has {schedule.num_timesteps} steps; config.num_timesteps is {config.num_timesteps}")
    if config.kernel == "gaussian" and not bool(jnp.isfinite(schedule.log_nsr[-1])):
        raise UserError(f"{field}: kernel 'gaussian' needs alpha_bar_T > 0; raise alpha_bar_final")
    left = float(schedule.alpha_bar[-1])
    if left > _MOST_LEFT:
        raise UserError(
            f"{field}: after T = {config.num_timesteps} steps alpha_bar_T = {left:.2g} of the data is left, and the "
            "prior knows nothing of it; raise num_timesteps, or the betas"
        )
    for name in ("learned", "ends_learned"):
        if config.schedule[name] and config.kernel == "binomial":
            raise UserError(f"config.schedule.{name}: bits are not differentiable in beta_t; use kernel 'gaussian'")
    if config.schedule.learned and config.schedule.num_bumps < 1:
        raise UserError(f"config.schedule.num_bumps: must lie in [1, inf), got {config.schedule.num_bumps}")
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


def _clock(schedule: Schedule) -> Callable[[Array], Array]:
    """Return t -> position in [0, 1], linear in log nu: the network resolves every noise level alike."""
    log_nsr = np.asarray(schedule.log_nsr[1:], np.float64)
    log_nsr = np.minimum(log_nsr, log_nsr[np.isfinite(log_nsr)].max(initial=0.0))
    span = max(log_nsr[-1] - log_nsr[0], 1e-9)
    position = jnp.asarray(np.concatenate([[0.0], (log_nsr - log_nsr[0]) / span]), jnp.float32)
    between = _log_nsr(schedule)
    return lambda t: position[t] if _are_steps(t) else (between(t) - log_nsr[0]) / span


def _log_nsr(schedule: Schedule) -> Callable[[Array], Array]:
    """Return t -> log nu_t, at real t between two steps, too."""

    def log_nsr(t: Array) -> Array:
        if _are_steps(t):
            return schedule.log_nsr[t]
        return jnp.log(level_at(schedule.sigma2, t, t) / level_at(schedule.alpha_bar, t, t))

    return log_nsr


def _are_steps(t: Array) -> bool:
    return bool(jnp.issubdtype(t.dtype, jnp.integer))


def _reverse(
    config: ConfigDict, shape: tuple[int, ...], grid: Grid | None
) -> tuple[int, Callable[[Schedule, Network], Model]]:
    """Return how many outputs of the network a reverse step needs, and (schedule, network) -> model."""
    dim, reverse = shape[-1], config.reverse
    full = reverse.covariance == "full"
    process: Callable[[Schedule], Any] = Gaussian
    to_model: Callable[..., Model]
    # Arguments of `to_model`; and the setting with which the variance cannot be chosen, for the error.
    arguments, user = {"prediction": reverse.prediction}, ""
    if config.kernel == "binomial":
        num_outputs, process, to_model, user = dim, Binomial, predictions.binomial, "kernel 'binomial'"
    elif full:
        num_outputs, to_model, user = dim + dim * (dim + 1) // 2, predictions.full_gaussian, "reverse.covariance 'full'"
        if len(shape) > 1 or dim > _MAX_FULL_DIM:
            raise UserError(
                f"config.reverse.covariance: 'full' is for up to {_MAX_FULL_DIM} dimensions, the data have "
                f"{math.prod(shape)}; use 'diagonal'"
            )
    elif reverse.prediction == "levels":
        if grid is None:
            raise UserError("config.reverse.prediction: 'levels' is for 8-bit pixels, which these data are not")
        num_outputs, to_model = grey_levels.num_outputs(dim, grid), partial(grey_levels.gaussian, grid=grid)
        arguments, user = {}, "prediction 'levels'"
    else:
        num_outputs, to_model = predictions.num_outputs(dim, reverse.variance), predictions.gaussian
        arguments["variance"] = reverse.variance
    try:
        refuse.one_of("covariance", reverse.covariance, ("diagonal", "full"))
        if full and config.kernel == "binomial":
            raise ValueError("covariance: 'full' is for kernel 'gaussian'")
        if user and reverse.variance != "mixed":
            raise ValueError(f"variance: must be 'mixed' with {user}, got '{reverse.variance}'")
        # Values are refused when the model is made.
        to_model(process(schedules.geometric(1)), lambda x_t, t: x_t, **arguments)
    except ValueError as error:
        raise UserError(f"config.reverse.{error}") from None

    def of_outputs(schedule: Schedule, outputs: Network) -> Model:
        return to_model(process(schedule), outputs, **arguments)

    return num_outputs, of_outputs

"""The experiment of a cold chain: a degradation in place of noise, and a network that restores."""

from __future__ import annotations

from typing import Any, get_args

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from dpm_jax import bound, degradations
from dpm_jax import cold as cold_lib
from dpm_jax.distributions import level
from dpm_jax.errors import UserError
from dpm_jax.model import Model
from dpm_jax.numerics import refuse
from dpm_jax.training import networks, parts
from dpm_jax.training.experiment import Memory, Params, Restoration, streams
from dpm_jax.training.settings import Train

__all__ = ["cold"]

# How much faster the scales of a cold chain's start are learned than the weights.
_START_RATE = 5.0


def cold(config: ConfigDict, shape: tuple[int, ...], train: Train) -> dict[str, Any]:
    """Return the fields of an `Experiment` whose chain is cold.

    Raises:
      UserError: if the config is not valid.
    """
    _check(config, shape, train)
    num_timesteps = config.num_timesteps
    part = parts.part(config.cold, "config.cold", parts.SHORT_NAMES["cold"], "degradation")
    degrade: degradations.Degradation = part(num_timesteps=num_timesteps)
    module = networks.module(config, shape, shape[-1], lambda t: t / num_timesteps)

    def init(key: Array) -> Params:
        start = level.standard(shape[-1])
        # The name that checkpoints have it by.
        start["mean"] = start.pop("location")
        return {"network": networks.init(module, key, shape), "start": start}

    network = networks.applied(module, config.network.precision)

    def restorer(params: Params, key: Array | None = None) -> cold_lib.Restore:
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
        return cold_lib.model(degrade, restore, num_timesteps, law, rule=config.cold.rule, key=degradation_key)

    def losses(restore: cold_lib.Restore, params: Params, key: Array, x_0: Array) -> Array:
        loss_key, last_key = jax.random.split(key)
        restored = cold_lib.restoration_errors(loss_key, degrade, restore, x_0, num_timesteps, norm=config.cold.norm)
        x_last = cold_lib.keyed(degrade)(last_key, x_0, jnp.full(x_0.shape[0], num_timesteps, jnp.int32))
        return restored + cold_lib.start_losses(start(params, x_0.shape[1:]), x_last)

    def loss(params: Params, key: Array, x_0: Array, memory: Memory) -> tuple[Array, Memory]:
        dropout_key, noise_key = jax.random.split(key)
        return losses(restorer(params, dropout_key), params, noise_key, x_0).mean(), memory

    def validation_loss(params: Params, key: Array, x_0: Array) -> tuple[Array, Array]:
        found = losses(restorer(params), params, key, x_0)
        return found, bound.mean_and_stderr(found).stderr

    return {
        "module": module,
        "init": init,
        "network": network,
        "model": model,
        "edge": "forward",
        "data": lambda x_0: x_0,
        "cold": Restoration(cold_lib.keyed(degrade), restorer, start),
        "memory": (),
        "loss": loss,
        "validation_loss": validation_loss,
    }


def _check(config: ConfigDict, shape: tuple[int, ...], train: Train) -> None:
    try:
        if train.objective != "restoration":
            raise ValueError(f"train.objective: 'restoration' and kernel 'cold' go together, got '{train.objective}'")
        if config.reverse.covariance == "full":
            raise ValueError("reverse.covariance: must be 'diagonal' with kernel 'cold'")
        for name in ("learned", "ends_learned"):
            if config.schedule[name]:
                raise ValueError(f"schedule.{name}: must be False with kernel 'cold', which has no schedule")
        if train.emphasis or train.time_sampler == "importance":
            raise ValueError(
                "train.objective: 'restoration' goes neither with emphasis nor with time_sampler 'importance'"
            )
        if len(shape) != 3:
            raise ValueError(f"kernel: 'cold' degrades images, and the data are of shape {shape}")
        refuse.one_of("cold.rule", config.cold.rule, get_args(cold_lib.Rule))
        refuse.one_of("cold.norm", config.cold.norm, get_args(cold_lib.Norm))
    except ValueError as error:
        raise UserError(f"config.{error}") from None

"""Losses of a config: what a train step minimises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from dpm_jax import bound, timesteps
from dpm_jax.distributions import Normal
from dpm_jax.errors import UserError
from dpm_jax.model import Model
from dpm_jax.predictions import FIXED
from dpm_jax.schedules import Schedule
from dpm_jax.training import parts
from dpm_jax.training.experiment import Memory, Params
from dpm_jax.training.parts import Part
from dpm_jax.training.settings import Train

__all__ = ["loss"]

# One example in this number goes through the terms of K without a gradient, which only the loss's value needs.
_FEW = 16

_OBJECTIVES = {
    "bound": "dpm_jax.bound:estimate",
    "limit": "dpm_jax.bound:limit",
    **{name: f"dpm_jax.objectives:{name}" for name in ("simple", "hybrid", "sample_mse")},
}
_TIME_SAMPLERS = {name: f"dpm_jax.timesteps:{name}" for name in ("low_discrepancy", "antithetic", "uniform")}
# Of the objective "limit".
_REAL_TIME_SAMPLERS = {"low_discrepancy": "dpm_jax.timesteps:continuous"}


def loss(
    config: ConfigDict,
    train: Train,
    base: Schedule,
    model: Callable[..., Model],
    edge: bound.Edge,
    data: Callable[[Array], Array],
) -> tuple[Memory, Callable[[Params, Array, Array, Memory], tuple[Array, Memory]]]:
    """Return the memory that training begins with, and the loss, see `Experiment`.

    Args:
      config: of the run.
      train: its section `train`.
      base: the schedule before it is learned.
      model: (parameters, key) -> the model.
      edge: the treatment of p(x_0 | x_1), see `bound`.
      data: examples -> what K is evaluated of.

    Raises:
      UserError: if the objective goes with no such model, or with another setting.
    """
    objective = _objective(config, train)
    options = parts.options("config.train.options", train.options)
    if train.time_sampler == "importance":
        function = parts.find("config.train.objective", train.objective, _OBJECTIVES)

        def remembering(params: Params, key: Array, x_0: Array, table: Memory) -> tuple[Array, Memory]:
            sampler = timesteps.importance(timesteps.probabilities(table), real=config.train.objective == "limit")
            dropout_key, noise_key = jax.random.split(key)
            how = {"edge": edge, "time_sampler": sampler, **options}
            found = _estimate(function, config, noise_key, model(params, dropout_key), data(x_0), **how)
            return -found.mean, timesteps.record(table, found.t, jax.lax.stop_gradient(found.kl))

        return timesteps.table(config.num_timesteps), remembering

    known = _REAL_TIME_SAMPLERS if train.objective == "limit" else _TIME_SAMPLERS
    sampler = parts.find("config.train.time_sampler", train.time_sampler, known)
    if train.emphasis > 0:
        sampler = timesteps.emphasis(base.sigma2**train.emphasis)

    def loss(params: Params, key: Array, x_0: Array, memory: Memory) -> tuple[Array, Memory]:
        dropout_key, noise_key = jax.random.split(key)
        return objective(noise_key, model(params, dropout_key), data(x_0), edge=edge, time_sampler=sampler), memory

    return (), loss


def _estimate(
    function: Callable[..., bound.Estimate],
    config: ConfigDict,
    key: Array,
    model: Model,
    x_0: Array,
    edge: bound.Edge,
    **how: Any,
) -> bound.Estimate:
    """Return K by a function of `bound`; where the schedule is fixed, with terms without a gradient of a few examples.

    Args:
      function: `bound.estimate` or `bound.limit`.
      config: of the run.
      key: PRNG key.
      model: what is trained.
      x_0: [B, ...].
      edge: see `bound`.
      **how: other arguments of the function.
    """
    if config.schedule.learned or config.schedule.ends_learned:
        return function(key, model, x_0, edge=edge, **how)
    # Every 16th, so that a batch that is spread over devices stays where it is.
    few = x_0[::_FEW]
    fixed = bound.fixed_terms(model.process, few, edge).mean()
    if callable(edge):
        # The edge of a grid without the network, which loses 0.01 bits a pixel and saves half of the calls.
        edge_key, key = jax.random.split(key)
        fixed += _first_step(edge_key, model.process, few, edge).mean()
        edge = "forward"
    return function(key, model, x_0, edge=edge, fixed=fixed, **how)


def _first_step(key: Array, process: Any, x_0: Array, edge: Callable[..., Array]) -> Array:
    """Return log p(x_0 | x_1) without a network, [B] nats: p is a `Normal` about x_1 / sqrt(alpha_bar_1)."""
    signal, nsr = jnp.sqrt(process.schedule.alpha_bar[1]), jnp.exp(process.schedule.log_nsr[1])
    x_1 = process.marginal(x_0, jnp.ones(len(x_0), jnp.int32)).sample(key)
    return edge(Normal(x_1 / signal, jnp.broadcast_to(nsr, x_1.shape)), x_0)


def _objective(config: ConfigDict, train: Train) -> Callable[..., Array]:
    """Return (key, model, x_0, edge=, time_sampler=) -> the loss."""
    name, fixed, field = train.objective, config.reverse.variance in FIXED, "config.train.objective"
    is_k = name in ("bound", "limit")
    if train.emphasis and train.time_sampler != "low_discrepancy":
        raise UserError("config.train.emphasis: needs train.time_sampler 'low_discrepancy'")
    if name == "restoration":
        raise UserError(f"{field}: 'restoration' and kernel 'cold' go together, got kernel '{config.kernel}'")
    options = parts.options("config.train.options", train.options)
    part = Part(name, parts.find(field, name, _OBJECTIVES), options, "config.train.options")
    part.check("key", "model", "x_0", "edge", "time_sampler", *(("fixed",) if is_k else ()))
    if name == "limit" and config.kernel == "gaussian" and config.reverse.variance != "mixed":
        raise UserError(f"{field}: 'limit' needs reverse.variance 'mixed', got '{config.reverse.variance}'")
    if name == "limit" and config.kernel == "binomial" and config.reverse.prediction != "x_0":
        raise UserError(f"{field}: 'limit' of bits needs reverse.prediction 'x_0', got '{config.reverse.prediction}'")
    if name in ("simple", "hybrid"):
        if config.kernel == "binomial":
            raise UserError(f"{field}: '{name}' predicts noise, and bits have no such noise; use kernel 'gaussian'")
        if name == "simple" and not fixed:
            raise UserError(
                f"{field}: 'simple' teaches no variance, and reverse.variance '{config.reverse.variance}' "
                "is learned; use 'hybrid', or reverse.variance small or large"
            )
        if name == "hybrid" and fixed:
            raise UserError(
                f"{field}: 'hybrid' teaches a variance, and reverse.variance '{config.reverse.variance}' "
                "is fixed; use 'simple'"
            )
    if name != "bound":
        _check_unweighted(config, train, field)

    def objective(key: Array, model: Model, x_0: Array, **how: Any) -> Array:
        taken = {name: value for name, value in how.items() if part.takes(name)} | part.arguments
        if is_k:
            return -_estimate(part.function, config, key, model, x_0, **taken).mean
        loss: Array = part.function(key, model, x_0, **taken)
        return loss

    return objective


def _check_unweighted(config: ConfigDict, train: Train, field: str) -> None:
    """Refuse what only the objective "bound" goes with."""
    name = train.objective
    if config.schedule.learned:
        raise UserError(f"config.schedule.learned: needs train.objective 'bound', got '{name}'")
    if config.schedule.ends_learned and name != "limit":
        raise UserError(f"config.schedule.ends_learned: needs train.objective 'bound' or 'limit', got '{name}'")
    if train.emphasis:
        raise UserError(f"{field}: '{name}' does not go with emphasis")
    if train.time_sampler == "importance" and name != "limit":
        raise UserError(f"{field}: '{name}' does not go with time_sampler 'importance'")

"""Any optimizer and learning-rate schedule of Optax, by name, "muon", or one's own, as "package.module:callable"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from ml_collections import ConfigDict

from dpm_jax.errors import UserError
from dpm_jax.numerics import refuse
from dpm_jax.training import parts

__all__ = ["LearningRate", "build", "learning_rate"]

# step -> learning rate
LearningRate = Callable[[Array], Array]

# What the schedules of Optax call the learning rate that they begin or peak with, and their length.
_PEAKS = ("peak_value", "init_value", "value")
_LENGTHS = ("decay_steps", "transition_steps")
# Of Optax, by way of a module here.
_OURS = {"muon": "dpm_jax.training.muon:muon"}
# Optax takes any value of these.
_WITHIN = {
    **dict.fromkeys(("b1", "b2", "beta", "momentum"), "[0, 1)"),
    "weight_decay": "[0, inf)",
    "alpha": "[0, 1]",
    **dict.fromkeys(("decay_rate", "rms"), "(0, inf)"),
}


def _find(field: str, name: str, wanted: tuple[str, ...]) -> Callable[..., Any]:
    """Return the function of Optax of this name, or the user's, that takes one of the parameters `wanted`."""
    if ":" in name or name in _OURS:
        own = parts.find(field, name, _OURS)
        if not set(wanted) & set(parts.parameters(own)):
            raise UserError(f"{field}: '{name}' must take {' or '.join(wanted)}")
        return own

    def fits(other: str) -> bool:
        found = getattr(optax, other, None)
        return not other.startswith("_") and callable(found) and bool(set(wanted) & set(parts.parameters(found)))

    if fits(name):
        return getattr(optax, name)  # type: ignore[no-any-return]
    hint = refuse.nearest(name, filter(fits, dir(optax)))
    raise UserError(f"{field}: Optax has no such function that takes a {' or '.join(wanted)}: {name!r}{hint}")


def _arguments(settings: ConfigDict, field: str, function: Callable[..., Any], ours: tuple[str, ...]) -> dict[str, Any]:
    """Return those of the section of this name, if there is one, and the options over them."""
    given: dict[str, Any] = settings[settings.name].to_dict() if settings.name in settings else {}
    given |= parts.options(f"{field}.options", settings.options)
    parts.check(function, given, f"{field}.options", ours)
    for name in _WITHIN.keys() & given.keys():
        try:
            refuse.within(_WITHIN[name], **{name: given[name]})
        except ValueError as error:
            raise UserError(f"{field}.{settings.name}.{error}") from None
    return given


def learning_rate(settings: ConfigDict, num_steps: int) -> LearningRate:
    """Return a linear warm-up followed by the named schedule, or that alone where it includes a warm-up.

    Args:
      settings: the config's section `optimizer`.
      num_steps: of the run: a schedule that has a length ends there, if the options say nothing else.

    Raises:
      UserError: if a name or an option is not Optax's.
    """
    decay, field = settings.decay, "config.optimizer.decay"
    peak = settings.learning_rate
    function = _find(f"{field}.name", decay.name, _PEAKS)
    parameters = parts.parameters(function)
    name = next(name for name in _PEAKS if name in parameters)
    # A schedule that has a peak includes a warm-up.
    warmup = 0 if name == "peak_value" else min(settings.warmup_steps, num_steps // 2)
    given = _arguments(decay, field, function, (name,))
    if name == "peak_value" and "init_value" in parameters:
        given.setdefault("init_value", 0.0)
    for length in set(_LENGTHS) & set(parameters):
        given.setdefault(length, max(num_steps - warmup, 1))
    try:
        after = function(**{name: peak}, **given)
        jax.eval_shape(after, jax.ShapeDtypeStruct((), jnp.int32))
    # Options of the wrong kind raise whatever Optax meets first.
    except Exception as error:
        raise UserError(f"{field}.options: optax.{decay.name}: {error}") from None

    def rate(step: Array) -> Array:
        decayed = jnp.asarray(after(jnp.maximum(step - warmup, 0)))
        return jnp.where(step < warmup, peak * step / warmup, decayed) if warmup else decayed

    return rate


def build(settings: ConfigDict, num_steps: int) -> tuple[optax.GradientTransformation, LearningRate]:
    """Return the optimizer, behind clipping by the global norm, and its learning rate.

    Args:
      settings: the config's section `optimizer`.
      num_steps: as `learning_rate`.

    Raises:
      UserError: if a name or an option is not Optax's, or the optimizer needs more than gradients.
    """
    field = "config.optimizer"
    try:
        refuse.within("(0, inf)", learning_rate=settings.learning_rate)
        refuse.within("(0, inf]", clip_norm=settings.clip_norm)
        refuse.within("[0, 1)", ema_decay=settings.ema_decay)
        refuse.within("[0, inf)", warmup_steps=settings.warmup_steps)
    except ValueError as error:
        raise UserError(f"{field}.{error}") from None
    rate = learning_rate(settings, num_steps)
    function = _find(f"{field}.name", settings.name, ("learning_rate",))
    given = _arguments(settings, field, function, ("learning_rate",))
    try:
        optimizer = optax.chain(optax.clip_by_global_norm(settings.clip_norm), function(learning_rate=rate, **given))
        params = {"w": jax.ShapeDtypeStruct((2, 2), jnp.float32)}
        jax.eval_shape(lambda p: optimizer.update(p, optimizer.init(p), p), params)
    # Those that need values of the loss, or a rate that does not change, say so in their own ways.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{field}.name: optax.{settings.name} cannot be used with these options: {reason}") from None
    return optimizer, rate

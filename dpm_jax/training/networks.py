"""The network of a config: made, initialised and applied."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from dpm_jax.errors import UserError
from dpm_jax.numerics import refuse
from dpm_jax.training import mesh, parts
from dpm_jax.training.experiment import Outputs, Params

__all__ = ["applied", "init", "module"]


def module(
    config: ConfigDict, shape: tuple[int, ...], num_outputs: int, clock: Callable[[Array], Array], **known: Any
) -> nn.Module:
    """Return the Flax module that a config names.

    Args:
      config: see `config.default`.
      shape: of one example.
      num_outputs: outputs that are needed, of an example or of a pixel.
      clock: t -> position in [0, 1].
      **known: what else is given to a network whose signature has the name.

    Raises:
      UserError: if it is no Flax module, can't be given these examples, or returns something else.
    """
    section = config.network
    try:
        refuse.one_of("dtype", section.dtype, ("float32", "bfloat16"))
        refuse.one_of("precision", section.precision, ("highest", "high", "default"))
    except ValueError as error:
        raise UserError(f"config.network.{error}") from None
    part = parts.part(section, "config.network", parts.SHORT_NAMES["network"])
    if section.dtype != "float32" and not part.takes("dtype"):
        raise UserError(f"config.network.dtype: network '{part.name}' computes in float32")
    made: Any = part(
        num_outputs=num_outputs,
        clock=clock,
        num_timesteps=config.num_timesteps,
        dtype=jnp.dtype(section.dtype),
        **known,
    )
    if not isinstance(made, nn.Module):
        raise UserError(f"config.network.name: '{part.name}' is no Flax module (linen), but {type(made).__name__}")
    check: Callable[..., None] | None = getattr(made, "check_shape", None)
    try:
        if check is not None:
            check(shape)
        if part.name not in section:
            _check_own(made, shape, num_outputs)
    except ValueError as error:
        raise UserError(f"config.network.name: '{part.name}' {error}") from error
    return made


def _check_own(made: nn.Module, shape: tuple[int, ...], num_outputs: int) -> None:
    """Check that a user's network returns what is needed, and is made of parameters alone."""
    x, t = jax.ShapeDtypeStruct((2, *shape), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.int32)
    outputs, variables = jax.eval_shape(lambda x, t: made.init_with_output(jax.random.key(0), x, t), x, t)
    wanted = (2, *shape[:-1], num_outputs)
    if getattr(outputs, "shape", None) != wanted:
        got = getattr(outputs, "shape", type(outputs).__name__)
        raise ValueError(f"must return {wanted} of x_t {(2, *shape)} and t (2,), got {got}")
    if others := sorted(set(variables) - {"params"}):
        raise ValueError(f"has variables other than parameters, which are not trained: {', '.join(others)}")
    if not math.prod(leaf.size for leaf in jax.tree.leaves(variables)):
        raise ValueError("has no parameters")


def init(module: nn.Module, key: Array, shape: tuple[int, ...]) -> Any:
    """Return initial parameters of a network for examples of this shape."""
    # One program: operation by operation it takes seconds.
    return jax.jit(module.init)(key, jnp.zeros((1, *shape)), jnp.ones(1, jnp.int32))["params"]


def applied(module: nn.Module, precision: str) -> Outputs:
    """Return (parameters, x_t, t, key=None) -> outputs, with matrix products of float32 in this precision."""

    def network(params: Params, x_t: Array, t: Array, key: Array | None = None) -> Array:
        rngs = {} if key is None else {"dropout": key}
        # Accelerators would multiply float32 numbers in fewer bits.
        with jax.default_matmul_precision(precision):
            outputs: Any = module.apply({"params": params["network"]}, mesh.spread(x_t), t, rngs=rngs)
        return outputs  # type: ignore[no-any-return]

    return network

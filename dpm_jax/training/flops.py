"""Floating-point operations of a traced function: those of its matrix products and convolutions.

These are what an accelerator's peak is stated for, and nearly all that networks do. XLA's own count is that of one
backend's program, in which the body of a loop counts once; here a scan counts as often as it goes round.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr

__all__ = ["count"]


# Passes through matrix units for bfloat16 that products of float32 take on TPUs; one at the default precision.
_PASSES = {jax.lax.Precision.HIGHEST: 6, jax.lax.Precision.HIGH: 3}


def count(function: Callable[..., Any], *args: Any, passes: bool = False) -> float:
    """Operations of `function(*args)`; a multiplication and its addition are two.

    The costliest of several branches counts; where they are for platforms, that of those not named. The body of a
    `while`, whose length nobody knows, counts once.

    Args:
      function: traceable.
      args: arrays, or their shapes and dtypes.
      passes: whether each counts as often as TPUs go through their matrix units, which take bfloat16, for its
        precision.
    """
    return _of_jaxpr(jax.make_jaxpr(function)(*args).jaxpr, passes)


def _of_jaxpr(jaxpr: Jaxpr, passes: bool) -> float:
    return sum(_of_equation(equation, passes) for equation in jaxpr.eqns)


def _of_equation(equation: Any, passes: bool) -> float:
    name, params = equation.primitive.name, equation.params
    times = 1
    if passes and "precision" in params and equation.invars[0].aval.dtype == jnp.float32:
        wanted = params["precision"]
        times = _PASSES.get(wanted[0] if isinstance(wanted, tuple) else wanted, 1)
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2.0 * times * float(equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted))
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval
        outputs = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
        return 2.0 * times * float(equation.outvars[0].aval.size * kernel.size / outputs)
    inner = [_of_jaxpr(jaxpr, passes) for jaxpr in _inner(params)]
    if name == "scan":
        return float(params["length"]) * sum(inner)
    if name == "cond":
        return inner[-1] if params.get("branches_platforms") else max(inner)
    return sum(inner)


def _inner(params: dict[str, Any]) -> list[Jaxpr]:
    """Return the programs within an equation."""
    # Closed programs, with their constants, have equations too.
    leaves = jax.tree.leaves(params, is_leaf=lambda leaf: hasattr(leaf, "eqns"))
    programs: list[Any] = [leaf for leaf in leaves if hasattr(leaf, "eqns")]
    return [getattr(program, "jaxpr", program) for program in programs]

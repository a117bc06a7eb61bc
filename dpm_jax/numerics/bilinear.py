"""Functions linear in each of two arrays, with given transposes, differentiable forward and backward.

`jax.custom_vjp` has no forward mode, and the transposes that JAX finds by itself for a program's parts may be slow.
Here the derivative of a product is made of products of the same kind, as it is of `a * b`, so that derivatives of
all orders and directions go through the transposes that are given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

__all__ = ["bilinear"]

# Of two arrays.
Function = Callable[[Array, Array], Array]

_bilinear = Primitive("bilinear")


def bilinear(function: Function, to_left: Function, to_right: Function, left: Array, right: Array) -> Array:
    """Return function(left, right), whose derivatives are made of it and of the two transposes.

    Args:
      function: linear in each of its arguments; its own derivatives are not used.
      to_left: (g, right) -> sum of g times function's derivative by left, of left's shape and dtype; in turn a
        `bilinear`, where it shall be differentiated.
      to_right: (g, left) -> the same by right.
      left: array.
      right: array.
    """
    shapes = (jax.ShapeDtypeStruct(jnp.shape(a), a.dtype) for a in (left, right))
    # A program, in place of the function, shows what is computed to whoever looks through a traced function.
    program = jax.make_jaxpr(function)(*shapes)
    result: Array = _bilinear.bind(left, right, program=program, to_left=to_left, to_right=to_right)
    return result


def _run(left: Array, right: Array, *, program: Any, **_: Function) -> Array:
    (result,) = jaxpr_as_fun(program)(left, right)
    return result  # type: ignore[no-any-return]


def _batched(args: tuple[Array, Array], dims: tuple[Any, Any], **how: Any) -> tuple[Array, int]:
    """Rule of `vmap`: again a bilinear function, summed over the batch where it is transposed to an unbatched array."""
    axes = [None if dim is None else 0 for dim in dims]
    moved = [a if axis is None else jnp.moveaxis(a, dim, 0) for a, axis, dim in zip(args, axes, dims, strict=True)]

    def of_batch(transpose: Function, axis: int | None, other: int | None) -> Function:
        def transposed(g: Array, a: Array) -> Array:
            each: Array = jax.vmap(transpose, (0, other))(g, a)
            return each.sum(axis=0) if axis is None else each

        return transposed

    function = jax.vmap(lambda *pair: jaxpr_as_fun(how["program"])(*pair)[0], axes)
    to_left = of_batch(how["to_left"], axes[0], axes[1])
    to_right = of_batch(how["to_right"], axes[1], axes[0])
    return bilinear(function, to_left, to_right, *moved), 0


_bilinear.def_impl(_run)
_bilinear.def_abstract_eval(lambda left, right, *, program, **_: program.out_avals[0])
ad.defbilinear(
    _bilinear,
    lambda g, left, right, *, to_left, **_: to_left(g, right),
    lambda g, left, right, *, to_right, **_: to_right(g, left),
)
batching.primitive_batchers[_bilinear] = _batched
mlir.register_lowering(_bilinear, mlir.lower_fun(_run, multiple_results=False))

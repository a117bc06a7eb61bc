"""The protocol of distributions, and the base of those in this package.

A law has a batch shape and an event shape: the parameters of a law of x [B, ...] have the shape of x, `event_ndim` says
how many of its last axes are one event, and sums are over these. In `vmap` over the batch a law of x [...] is left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol, Self

import jax
import jax.numpy as jnp
from jax import Array

from dpm_jax.numerics.shapes import as_float32

__all__ = ["Distribution", "Law", "Start", "is_law", "where"]


class Start(Protocol):
    """Protocol of the distribution of x_T, at which chains begin: a part of `Distribution`."""

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the batch: one independent distribution for each entry."""

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one x."""

    def sample(self, key: Array) -> Array:
        """Sample x, [*batch, *event]."""

    def log_prob(self, x: Array) -> Array:
        """Return log p(x) in nats, [*batch]."""


class Distribution(Start, Protocol):
    """Protocol of a distribution of x. A class of your own with these methods works wherever those of this package do.

    It must be a pytree whose leaves have the batch axes first. Methods
    that only some algorithms need are named where they are missing: `product` and `tilt` are for evidence (`guidance`),
    and classmethods `point` and `known` make evidence.
    """

    @property
    def mean(self) -> Array:
        """E[x], [*batch, *event]."""

    @property
    def variance(self) -> Array:
        """Variance of each coordinate, [*batch, *event]."""

    def entropy(self) -> Array:
        """Return the entropy in nats, [*batch]."""

    def kl(self, other: Any) -> Array:
        """Return KL(self || other) in nats, [*batch]."""

    def product(self, evidence: Any) -> tuple[Any, Array]:
        """Return p(x) r(x) / Z and log Z, [*batch] nats."""

    def tilt(self, log_r: Callable[[Array], Array] | Array) -> Any:
        """Return p(x) r(x) / Z with log r linearised, or the slope of a linear one."""


def is_law(x: Any) -> bool:
    """Return whether x is a law, and not an array of values."""
    return hasattr(x, "log_prob") and hasattr(x, "event_shape")


class Law:
    """A frozen pytree; subclasses name their array parameters in `_parameters`.

    Flattening keeps `event_ndim` beside the arrays. Nothing is checked when a transformation puts a law together again.
    """

    _parameters: ClassVar[tuple[str, ...]]
    event_ndim: int

    def __init_subclass__(cls) -> None:
        def flatten(law: Law) -> tuple[list[tuple[Any, Any]], int]:
            names = cls._parameters
            return [(jax.tree_util.GetAttrKey(name), getattr(law, name)) for name in names], law.event_ndim

        jax.tree_util.register_pytree_with_keys(cls, flatten, lambda event_ndim, values: cls._of(values, event_ndim))

    @classmethod
    def _of(cls, values: Any, event_ndim: int) -> Self:
        law = object.__new__(cls)
        for name, value in zip(cls._parameters, values, strict=True):
            object.__setattr__(law, name, value)
        object.__setattr__(law, "event_ndim", event_ndim)
        return law

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen; make another in place of setting {name!r}")

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._parameters)
        return f"{type(self).__name__}({shown}, event_ndim={self.event_ndim})"

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the batch: one independent distribution for each entry."""
        shape = self._shape()
        return shape[: len(shape) - self.event_ndim]

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one x."""
        shape = self._shape()
        return shape[len(shape) - self.event_ndim :]

    def _shape(self) -> tuple[int, ...]:
        return jnp.shape(getattr(self, self._parameters[0]))

    def _sum(self, terms: Array) -> Array:
        """Sum over the event."""
        return terms.reshape(*terms.shape[: terms.ndim - self.event_ndim], -1).sum(axis=-1)


def parameter(name: str, value: Any, shape: tuple[int, ...]) -> Array:
    """Return a parameter as float32 of this shape, to which it must broadcast.

    Raises:
      ValueError: if it does not, or holds no real numbers.
    """
    array = as_float32(value, name)
    try:
        return jnp.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(f"{name}: must broadcast to shape {shape}, got shape {array.shape}") from None


def event_ndim_of(ndim: int, event_ndim: int | None) -> int:
    """Return the number of event axes: by default all axes but the first.

    Raises:
      ValueError: if the array has fewer axes than that.
    """
    if event_ndim is None:
        return max(ndim - 1, 0)
    if not 0 <= event_ndim <= ndim:
        raise ValueError(f"event_ndim: must lie in 0..{ndim}, the axes of the law, got {event_ndim}")
    return event_ndim


def where(which: Array, p: Any, q: Any) -> Any:
    """Return p for the examples with `which`, bool [*batch], and q, a law of the same type, for the others."""

    def select(one: Array, other: Array) -> Array:
        return jnp.where(which.reshape(which.shape + (1,) * (one.ndim - which.ndim)), one, other)

    return jax.tree.map(select, p, q)

"""A model: a process, and what is known of x_0 given x_t.

    p(x_{t-1} | x_t) = integral of q(x_{t-1} | x_t, x_0) p(x_0 | x_t)

The denoiser gives p(x_0 | x_t), and the process mixes its posteriors over it. A model that is given by its reverse
steps alone can be bounded and sampled; what needs p(x_0 | x_t) refuses it by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from dpm_jax.distributions import Distribution, FullNormal, Normal, where
from dpm_jax.distributions.base import is_law
from dpm_jax.processes import Process

__all__ = ["Denoise", "Model", "Reverse", "forward_edge"]

# (x_t [B, ...], t int32 [B]) -> p(x_0 | x_t).
Denoise = Callable[[Array, Array], Distribution]

# (x_t [B, ...], t int32 [B]) -> p(x_{t-1} | x_t).
Reverse = Callable[[Array, Array], Distribution]


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained (or initial) model: what `bound`, `sampling` and the rest take, and what `guidance` and others make.

    Attributes:
      process: the forward chain; T is its schedule's.
      denoise: (x_t, t) -> law of x_0 given x_t; None where it is not known.
      steps: (x_t, t) -> law of x_{t-1}, in place of the mixture over `denoise`; None where it is that.

    Raises:
      ValueError: if there is neither a denoiser nor steps.
    """

    process: Process
    denoise: Denoise | None
    steps: Reverse | None = None

    def __post_init__(self) -> None:
        if self.denoise is None and self.steps is None:
            raise ValueError("model: needs a denoiser, or steps; use Model.from_steps for the latter")

    @classmethod
    def from_steps(cls, process: Process, steps: Reverse) -> Model:
        """Return the model given by its reverse steps (x_t, t) -> p(x_{t-1} | x_t) alone."""
        return cls(process, None, steps)

    @property
    def num_timesteps(self) -> int:
        """T."""
        return self.process.num_timesteps

    def denoised(self, x_t: Array, t: Array) -> Any:
        """Return p(x_0 | x_t).

        Args:
          x_t: [B, ...].
          t: int32 [B] in 1..T.

        Raises:
          ValueError: if the model has no denoiser, or it returns anything but a law of x_t's shape.
        """
        if self.denoise is None:
            raise ValueError("model: is given by its reverse steps alone, and this needs its denoiser, p(x_0 | x_t)")
        return _law_of(self.denoise(x_t, t), x_t, "denoise")

    def reverse(self, x_t: Array, t: Array) -> Any:
        """Return p(x_{t-1} | x_t).

        Args:
          x_t: [B, ...].
          t: int32 [B] in 1..T.

        Raises:
          ValueError: if the denoiser, or the steps, return anything but a law of x_t's shape.
        """
        if self.steps is not None:
            return _law_of(self.steps(x_t, t), x_t, "steps")
        return self.process.posterior(self.denoised(x_t, t), x_t, t)

    def laws(self, x_t: Array, t: Array) -> tuple[Any, Any]:
        """Return p(x_0 | x_t) and p(x_{t-1} | x_t), as `denoised` and `reverse`, from one call of the denoiser."""
        start = self.denoised(x_t, t)
        return start, self.process.posterior(start, x_t, t) if self.steps is None else self.reverse(x_t, t)


def _law_of(p: Any, x_t: Array, name: str) -> Any:
    """Return p, a law with x_t's batch and event, batch axis first in its parameters."""
    if not is_law(p):
        raise ValueError(f"{name}: must return a distribution, got {type(p).__name__}")
    if (shape := (*p.batch_shape, *p.event_shape)) != jnp.shape(x_t):
        raise ValueError(f"{name}: must return a law of shape {jnp.shape(x_t)}, that of x_t, got {shape}")
    if len(p.event_shape) != jnp.ndim(x_t) - 1:
        raise ValueError(f"{name}: must return a law whose event is all of x_t but its first axis, got {p.event_shape}")
    return p


def forward_edge(model: Model) -> Model:
    """Return the model with p(x_0 | x_1) set to the forward kernel run backwards, the paper's edge (appendix B.2)."""
    process = model.process

    def with_edge(p: Any, x_t: Array, t: Array) -> Any:
        edge: Any = process.forward(x_t, jnp.ones(jnp.shape(t), jnp.int32))
        if isinstance(p, FullNormal) and isinstance(edge, Normal):
            edge = FullNormal.of(edge)
        forms: list[Any] = [jax.tree.structure(law) for law in (edge, p)]
        if forms[0] != forms[1]:
            raise ValueError(
                f"edge: the model's steps are {type(p).__name__}s, and the forward kernel is a {type(edge).__name__}; "
                "use 'decoder'"
            )
        return where(t == 1, edge, p)

    def replaced(laws: Reverse | None, of_model: Reverse) -> Reverse | None:
        return None if laws is None else lambda x_t, t: with_edge(of_model(x_t, t), x_t, t)

    # At t = 1 the mixture over a law of x_0 is that law.
    return Model(process, replaced(model.denoise, model.denoised), replaced(model.steps, model.reverse))

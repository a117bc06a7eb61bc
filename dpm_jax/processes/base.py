"""The protocol of processes: a forward chain, what a kernel and a schedule make."""

from __future__ import annotations

from typing import Any, Protocol

from jax import Array

from dpm_jax.distributions import Distribution

__all__ = ["Process"]


class Process(Protocol):
    """Protocol of a forward chain x_0 -> x_1 -> ... -> x_T.

    t is int32 of the batch shape of x, or [1] for all of a batch, in 1..T (0..T for `marginal`); the other axes of x
    are the event. `respacing` asks besides for a frozen dataclass with a field `schedule`, which it replaces: so the
    laws must follow from the schedule's levels alone. `guidance` names the optional methods `diffuse` and `renoise`
    where it needs one, and `bound.limit` the optional `kl_rate`, for which `marginal` takes real t.
    """

    @property
    def num_timesteps(self) -> int:
        """T."""

    def prior(self, shape: tuple[int, ...]) -> Distribution:
        """Return p(x_T) for x_T of this shape, the batch axis first."""

    def forward(self, x_prev: Array, t: Array) -> Distribution:
        """Return q(x_t | x_{t-1})."""

    def marginal(self, x_0: Array, t: Array) -> Distribution:
        """Return q(x_t | x_0); at t = 0 the point x_0."""

    def posterior(self, x_0: Any, x_t: Array, t: Array) -> Distribution:
        """Return q(x_{t-1} | x_t, x_0), x_0 known, or mixed over a law of x_0 given x_t."""

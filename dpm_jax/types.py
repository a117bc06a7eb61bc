"""The types that the algorithms are written against: a reverse function and a kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from jax import Array

from dpm_jax.schedules import Schedule

__all__ = ["Distribution", "Kernel", "Reverse"]

# A NamedTuple of arrays with the batch axis first: Normal, FullNormal, Bernoulli.
Distribution = Any

# (x_t [B, ...], t int32 [B]) -> p(x_{t-1} | x_t). The learned model, or any function of this type.
Reverse = Callable[[Array, Array], Distribution]


class Kernel(Protocol):
    """What `bound`, `sampling` and `optimal` ask of a kernel; the modules `gaussian` and `binomial` have it."""

    def forward(self, schedule: Schedule, x_prev: Array, t: Array) -> Distribution:
        """q(x_t | x_{t-1})."""

    def marginal(self, schedule: Schedule, x_0: Array, t: Array) -> Distribution:
        """q(x_t | x_0)."""

    def q_sample(self, key: Array, schedule: Schedule, x_0: Array, t: Array) -> Array:
        """x_t ~ q(x_t | x_0)."""

    def q_posterior(self, schedule: Schedule, x_0: Array, x_t: Array, t: Array) -> Distribution:
        """q(x_{t-1} | x_t, x_0)."""

    def prior(self, x: Array) -> Distribution:
        """p(x_T), of x's shape."""

    def forward_edge(self, schedule: Schedule, reverse: Any) -> Any:
        """The reverse function with p(x_0 | x_1) set to the forward kernel."""

    def noise(self, key: Array, shape: tuple[int, ...]) -> Array:
        """What `place` makes samples of."""

    def place(self, p: Any, noise: Array) -> Array:
        """The sample of p that this noise stands for."""

    def sample(self, key: Array, p: Any) -> Array:
        """A draw from p: its noise, placed."""

    def log_prob(self, p: Any, x: Array) -> Array:
        """log p(x), [B] nats."""

    def entropy(self, p: Any) -> Array:
        """Entropy of p, [B] nats."""

    def kl(self, q: Any, p: Any) -> Array:
        """KL(q || p), [B] nats."""

    def null_log_prob(self, x_0: Array) -> Array:
        """log-probability under the null model, [B] nats."""

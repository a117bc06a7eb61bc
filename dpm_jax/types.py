"""The types that the algorithms are written against: a reverse function, a model, a kernel."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from dpm_jax.schedules import Schedule

__all__ = ["Distribution", "Kernel", "Model", "Reverse", "num_arguments", "reverse_step", "verbs"]

# A NamedTuple of arrays with the batch axis first: Normal, FullNormal, Bernoulli. Its verbs are in the module
# that its type is defined in, where `verbs` finds them.
Distribution = Any

# (x_t [B, ...], t int32 [B]) -> p(x_{t-1} | x_t). The learned model, or any function of this type.
Reverse = Callable[[Array, Array], Distribution]


class Model(NamedTuple):
    """A trained (or initial) model: what `bound`, `sampling` and the rest take; a respaced chain is another."""

    schedule: Schedule
    reverse: Reverse


class Kernel(Protocol):
    """What the algorithms ask of a kernel; the modules `gaussian` and `binomial` have it."""

    def data(self, x_0: Array) -> Array:
        """Data as the kernel computes with them, float32; refused where they are none."""

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

    def mean(self, p: Any) -> Array:
        """E[x], [B, ...]."""

    def variance(self, p: Any) -> Array:
        """Of each coordinate, [B, ...]."""

    def point(self, x: Array) -> Distribution:
        """The law under which x is certain."""

    def known(self, x: Array, observed: Array) -> Any:
        """Evidence that coordinates of x are known."""

    def slope(self, p: Any, log_r: Callable[[Array], Array]) -> Array:
        """What `tilted` takes in place of log r, [B, ...]."""

    def tilted(self, p: Any, slope: Array) -> Any:
        """p(x) exp(slope . x) / Z."""

    def product(self, p: Any, r: Any) -> Any:
        """p(x) r(x) / Z, r a law about each coordinate by itself."""

    def log_overlap(self, p: Any, r: Any) -> Array:
        """log Z of `product`, [B] nats."""

    def start(self, schedule: Schedule, p: Any, x_t: Array, t: Array) -> Any:
        """The law of x_0 given x_t behind a reverse step."""

    def step(self, schedule: Schedule, start: Any, x_t: Array, t: Array) -> Any:
        """The reverse step that a law of x_0 given x_t makes."""

    def diffused(self, schedule: Schedule, r: Any, t: Array) -> Any:
        """Evidence about x_0 as evidence about x_t."""

    def renoised(self, schedule: Schedule, r: Any, p: Any, t: Array) -> Any:
        """A law of x_t, with what was observed of x_0 put in its place, diffused."""

    def where(self, which: Array, p: Any, q: Any) -> Any:
        """Example by example, one law or the other."""

    def null_log_prob(self, x_0: Array) -> Array:
        """log-probability under the null model, [B] nats."""


def verbs(p: Distribution) -> Any:
    """The verbs of a law: the module that its type is of."""
    return sys.modules[type(p).__module__]


def reverse_step(reverse: Reverse, x_t: Array, t: Array) -> Distribution:
    """Return reverse(x_t, t), a law of x_{t-1} for each example and coordinate of x_t.

    Raises:
      ValueError: if the law has another shape, or parameters that are not one example after another.
    """
    p = reverse(x_t, t)
    if (shape := jnp.shape(verbs(p).mean(p))) != x_t.shape:
        raise ValueError(f"reverse: must return a law of shape {x_t.shape}, that of x_t, got {shape}")
    for shape in map(jnp.shape, jax.tree.leaves(p)):
        if shape and (len(shape) < x_t.ndim or shape[0] not in (1, x_t.shape[0])):
            raise ValueError(
                f"reverse: returned a parameter of shape {shape} for x_t of shape {x_t.shape}; give it the batch axis "
                "first and as many axes as x_t"
            )
    return p


def num_arguments(function: Callable[..., Any]) -> int:
    """How many arguments without a default a function takes."""
    parameters = inspect.signature(function).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is inspect.Parameter.empty for p in parameters)

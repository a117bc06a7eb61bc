"""Cold diffusion (Bansal et al. 2022, "Cold Diffusion: Inverting arbitrary image transforms without noise").

A forward chain without noise, x_t = D(x_0, t), of any kind (`degradations`, or your own), and a network
R(x_t, t) -> x_hat_0 that restores what it can, trained by

    min_R  E || R(D(x_0, t), t) - x_0 ||_1                                     equation 1: `restoration_loss`

The reverse chain restores, and degrades again by one step less:

    naive       x_{t-1} = D(x_hat_0, t - 1)                                    Algorithm 1
    improved    x_{t-1} = x_t - D(x_hat_0, t) + D(x_hat_0, t - 1)              Algorithm 2

Where D is nearly linear in t, x_0 + t e, what the second one does hardly depends on R: the errors of x_hat_0 cancel
(section 3.3). `model` gives either as a `Model` whose steps are laws under which x_{t-1} is certain, and whose prior is
a law of x_T (`level`), and `sampling` runs it as it runs any other:

    sampling.sample(key, cold.model(degrade, restore, T, level), num, shape)

There is no noise, and so no bound on the likelihood: the law of a step is a point, and K is minus infinity.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, Protocol, get_args

import jax
import jax.numpy as jnp
from jax import Array

from dpm_jax import timesteps
from dpm_jax.degradations import Degradation
from dpm_jax.distributions import Normal
from dpm_jax.distributions.base import Start
from dpm_jax.model import Model
from dpm_jax.numerics import loops, refuse
from dpm_jax.numerics.shapes import num_arguments
from dpm_jax.sampling import Numbered

__all__ = [
    "Chain",
    "Degradation",
    "Keyed",
    "Norm",
    "Restore",
    "Rule",
    "keyed",
    "model",
    "restoration_errors",
    "restoration_loss",
    "start_loss",
    "start_losses",
]

Norm = Literal["l1", "l2"]
Rule = Literal["improved", "naive"]


class Restore(Protocol):
    """R, the network: an estimate of x_0."""

    def __call__(self, x_t: Array, t: Array, /) -> Array:
        """x_t [B, ...], t int32 [B] -> [B, ...]."""


class Keyed(Protocol):
    """A degradation called in the one way that serves both kinds."""

    def __call__(self, key: Array | None, x_0: Array, t: Array, number: Array | None = None) -> Array:
        """x_0 [B, ...], t int32 [B] -> [B, ...]; the examples have the numbers `number`, int32 [B], or 0..B-1."""


def _is_random(degrade: Degradation) -> bool:
    count = num_arguments(degrade)
    if count not in (2, 3):
        raise ValueError(f"degrade: must take (x_0, t) or (key, x_0, t), got a function of {count} arguments")
    return count == 3


def _needed(key: Array | None) -> Array:
    if key is None:
        raise ValueError("key: this degradation is random and needs one, got None")
    return key


def keyed(degrade: Degradation) -> Keyed:
    """`(key, x_0, t)` for a degradation of either kind.

    A random one is given one example at a time, under `vmap`, with a key made of `key` and the example's number. So
    the same example has the same randomness at every t, in whatever batch it comes; the
    degradation need see to neither.

    Args:
      degrade: (x_0, t) -> x_t or (key, x_0, t) -> x_t.

    Raises:
      ValueError: if it takes another number of arguments; on calling a random one without a key.
    """
    if not _is_random(degrade):
        return lambda key, x_0, t, number=None: degrade(x_0, t)

    def of_batch(key: Array | None, x_0: Array, t: Array, number: Array | None = None) -> Array:
        batch_key = _needed(key)

        def of_one(x_0: Array, t: Array, number: Array) -> Array:
            return degrade(jax.random.fold_in(batch_key, number), x_0[None], t[None])[0]

        return jax.vmap(of_one)(
            loops.whole(x_0), loops.whole(t), jnp.arange(x_0.shape[0]) if number is None else number
        )

    return of_batch


def restoration_errors(
    key: Array, degrade: Degradation, restore: Restore, x_0: Array, num_timesteps: int, *, norm: Norm = "l1"
) -> Array:
    """Return how far each restored image is from its original, with t uniform over 1..T (equation 1).

    Args:
      key: PRNG key, of t and of a random degradation.
      degrade: the degradation.
      restore: (x_t, t) -> x_hat_0; its gradient is taken through here.
      x_0: [B, ...].
      num_timesteps: T.
      norm: "l1", the paper's: mean absolute error; "l2": mean square error.

    Returns:
      [B], a dimension.

    Raises:
      ValueError: if `norm` is another, or `degrade` takes neither two arguments nor three.
    """
    errors = {"l1": jnp.abs, "l2": jnp.square}
    refuse.one_of("norm", norm, errors)
    t_key, degrade_key = jax.random.split(key)
    # Draws are of 2..T for the bound, whose edge is a term by itself; here t = 1 is as any other.
    t = timesteps.low_discrepancy(t_key, x_0.shape[0], num_timesteps + 1).t - 1
    x_t = keyed(degrade)(degrade_key, x_0, t)
    return errors[norm](restore(x_t, t) - x_0).reshape(x_0.shape[0], -1).mean(axis=1)


def restoration_loss(
    key: Array, degrade: Degradation, restore: Restore, x_0: Array, num_timesteps: int, *, norm: Norm = "l1"
) -> Array:
    """Return the mean of `restoration_errors`, with its arguments: a scalar."""
    return restoration_errors(key, degrade, restore, x_0, num_timesteps, norm=norm).mean()


def start_losses(start: Start, x_last: Array) -> Array:
    """Return -log p(x_T) of each image, in nats a dimension: fits the law that chains begin at, by maximum likelihood.

    It has no parameter in common with `restoration_loss`: in their sum, gradients of either are what they would be
    alone, though clipping by the norm of all looks at both.

    Args:
      start: law of x_T, such as `level.Level`.
      x_last: [B, ...] x_T = D(x_0, T) of data.
    """
    losses: Array = -start.log_prob(x_last) / x_last[0].size
    return losses


def start_loss(start: Start, x_last: Array) -> Array:
    """Return the mean of `start_losses`, with its arguments: a scalar."""
    return start_losses(start, x_last).mean()


@dataclasses.dataclass(frozen=True)
class Chain:
    """The process of a cold chain, for `sampling` alone: it has no noise, so its only distribution is that of x_T.

    Attributes:
      num_timesteps: T.
      start: law of x_T; None where `sampling.sample` is given x_T.
    """

    num_timesteps: int
    start: Start | None = None

    def prior(self, shape: tuple[int, ...]) -> Start:
        """Return the law of x_T, whatever the shape.

        Raises:
          ValueError: if there is none.
        """
        if self.start is None:
            raise ValueError("start: this cold chain has no law of x_T; give one, or x_T itself")
        return self.start


def model(
    degrade: Degradation,
    restore: Restore,
    num_timesteps: int,
    start: Start | None = None,
    *,
    rule: Rule = "improved",
    key: Array | None = None,
) -> Model:
    """Return the model of a cold chain: its steps restore, then degrade by one step less.

    Args:
      degrade: the degradation that `restore` was trained with.
      restore: (x_t, t) -> x_hat_0.
      num_timesteps: T.
      start: law of x_T, such as `level.Level`; None if `sampling.sample` is given x_T.
      rule: "improved" (Algorithm 2) or "naive" (Algorithm 1).
      key: of a random degradation. It is the same all the way down the chain, which undoes one degradation.

    Returns:
      `Model` for `sampling` alone; its steps are `Normal` of variance 0. Samples do not depend on how `sampling` cuts
      up the batch.

    Raises:
      ValueError: if `rule` is another, a random degradation has no key, or it takes neither two arguments nor three.
    """
    refuse.one_of("rule", rule, get_args(Rule))
    if _is_random(degrade):
        _needed(key)
    degraded = keyed(degrade)

    def step(x_t: Array, t: Array, number: Array) -> Normal:
        x_0 = restore(x_t, t)
        x_prev = degraded(key, x_0, t - 1, number)
        if rule == "improved":
            x_prev = x_t - degraded(key, x_0, t, number) + x_prev
        return Normal.point(x_prev)

    chain: Any = Chain(num_timesteps, start)
    return Model.from_steps(chain, Numbered(step))

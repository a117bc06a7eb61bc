"""Ancestral sampling: x_T from the prior, then the reverse function from T down to 1, as one scan.

Every example has a key of its own, so what it becomes depends neither on the batch it
was drawn in nor on how the batch was cut up (to float32 rounding of the network).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from dpm_jax.types import Kernel, Reverse

__all__ = ["Trajectory", "ancestral", "ancestral_trajectory"]


class Trajectory(NamedTuple):
    """States kept on the way. t: int32 [n], falling from T to 0. x: [n, num, ...]."""

    t: Array
    x: Array


def _keys(key: Array, num: int) -> Array:
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(num))


def _draw(kernel: Kernel, keys: Array, time: Array | int, p: object) -> Array:
    """One draw an example, its noise a function of the example's key and the time."""
    at_time = jax.vmap(lambda k: jax.random.fold_in(k, time))(keys)
    return jax.vmap(kernel.sample)(at_time, p)


def _start(kernel: Kernel, keys: Array, shape: tuple[int, ...], num_timesteps: int) -> Array:
    return _draw(kernel, keys, num_timesteps, kernel.prior(jnp.zeros((keys.shape[0], *shape))))


def _descend(kernel: Kernel, reverse: Reverse, keys: Array, x: Array, start: Array | int, num_steps: int) -> Array:
    """From x at time `start`, `num_steps` reverse steps."""

    def step(x_t: Array, t: Array) -> tuple[Array, None]:
        p = reverse(x_t, jnp.full(x_t.shape[0], t, jnp.int32))
        return _draw(kernel, keys, t - 1, p), None

    return jax.lax.scan(step, x, start - jnp.arange(num_steps))[0]


def ancestral(
    key: Array,
    kernel: Kernel,
    reverse: Reverse,
    num: int,
    shape: tuple[int, ...],
    num_timesteps: int,
    *,
    chunk_size: int | None = None,
) -> Array:
    """`num` samples x_0, memory constant in T.

    Args:
      key: PRNG key.
      kernel: `gaussian` or `binomial`.
      reverse: (x_t, t) -> distribution.
      num: how many samples.
      shape: of one example.
      num_timesteps: T.
      chunk_size: draw so many at a time, one chunk after another, with the same result;
        None draws all at once.

    Returns:
      [num, *shape] float32.
    """

    def draw(keys: Array) -> Array:
        x_last = _start(kernel, keys, shape, num_timesteps)
        return _descend(kernel, reverse, keys, x_last, num_timesteps, num_timesteps)

    if chunk_size is None or chunk_size >= num:
        return draw(_keys(key, num))
    num_chunks = -(-num // chunk_size)
    keys = _keys(key, num_chunks * chunk_size).reshape(num_chunks, chunk_size)
    chunks: Array = jax.lax.map(draw, keys)
    return chunks.reshape(-1, *shape)[:num]


def ancestral_trajectory(
    key: Array,
    kernel: Kernel,
    reverse: Reverse,
    num: int,
    shape: tuple[int, ...],
    num_timesteps: int,
    *,
    keep_every: int = 1,
) -> Trajectory:
    """As `ancestral`, with the same samples, keeping x_T, x_0 and every t divisible by `keep_every`.

    Args:
      key: PRNG key.
      kernel: `gaussian` or `binomial`.
      reverse: (x_t, t) -> distribution.
      num: how many samples.
      shape: of one example.
      num_timesteps: T.
      keep_every: k; memory is that of T / k states.

    Returns:
      `Trajectory`; `x[-1]` are the samples.

    Raises:
      ValueError: if keep_every < 1.
    """
    if keep_every < 1:
        raise ValueError(f"keep_every: must be at least 1, got {keep_every}")
    keys = _keys(key, num)
    x_last = _start(kernel, keys, shape, num_timesteps)
    # The first stretch is the short one, so that all others begin at multiples of keep_every.
    whole, short = divmod(num_timesteps, keep_every)
    states, times = [x_last[None]], [jnp.asarray([num_timesteps])]
    x = x_last
    if short:
        x = _descend(kernel, reverse, keys, x, num_timesteps, short)
        states.append(x[None])
        times.append(jnp.asarray([whole * keep_every]))

    def stretch(x: Array, start: Array) -> tuple[Array, Array]:
        x = _descend(kernel, reverse, keys, x, start, keep_every)
        return x, x

    starts = keep_every * jnp.arange(whole, 0, -1)
    states.append(jax.lax.scan(stretch, x, starts)[1])
    times.append(starts - keep_every)
    return Trajectory(jnp.concatenate(times), jnp.concatenate(states))

"""Ancestral sampling: x_T from the prior, then the reverse function from T down to 1, as one scan.

The noise of an example at a time depends on the key, the example's number and the time
alone, not on the batch it is drawn in nor on how the batch is cut up. So samples are the
same, to float32 rounding of the network, however much is drawn at once. A chain need not begin
at the prior: `start` says where.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from dpm_jax import loops
from dpm_jax.schedules import Schedule
from dpm_jax.types import Distribution, Kernel, Reverse, reverse_step, verbs

__all__ = ["Numbered", "Trajectory", "ancestral", "ancestral_trajectory", "with_jumps"]

# Examples that share a key. One key an example would cost small nets a tenth of a step.
_BLOCK = 16


class Trajectory(NamedTuple):
    """States kept on the way. t: int32 [n], falling from T to 0. x: [n, num, ...]."""

    t: Array
    x: Array


@dataclasses.dataclass(frozen=True)
class Numbered:
    """A reverse function with randomness of its own, which must depend on the example and not on the batch.

    Attributes:
      step: (x_t [B, ...], t int32 [B], number int32 [B]) -> distribution, of the examples of these numbers.
    """

    step: Callable[[Array, Array, Array], Distribution]

    def __call__(self, x_t: Array, t: Array) -> Distribution:
        """As any reverse function: the examples are the first ones."""
        return self.step(x_t, t, jnp.arange(x_t.shape[0]))


def _numbered(reverse: Reverse, number: Array) -> Reverse:
    """A reverse function of the examples of these numbers."""
    return (lambda x_t, t: reverse.step(x_t, t, number)) if isinstance(reverse, Numbered) else reverse


def _noise(
    key: Array, kernel: Kernel, first: Array | int, num: int, shape: tuple[int, ...], time: Array | int
) -> Array:
    """Noise of the examples first..first + num - 1 at a time, [num, *shape]."""
    num_blocks = -(-num // _BLOCK) + 1
    key = jax.random.fold_in(key, time)
    blocks = jnp.arange(num_blocks) + first // _BLOCK
    noise = jax.vmap(lambda block: kernel.noise(jax.random.fold_in(key, block), (_BLOCK, *shape)))(blocks)
    return jax.lax.dynamic_slice_in_dim(noise.reshape(-1, *shape), first % _BLOCK, num)


def _start(
    key: Array,
    kernel: Kernel,
    start: Distribution | Array | None,
    first: Array | int,
    num: int,
    shape: tuple[int, ...],
    num_timesteps: int,
) -> Array:
    """x_T of the examples first..first + num - 1, [num, *shape]."""
    if start is None:
        prior = kernel.prior(jnp.zeros((num, *shape)))
        return kernel.place(prior, _noise(key, kernel, first, num, shape, num_timesteps))
    if isinstance(start, tuple):
        law = verbs(start)
        return law.place(start, _noise(key, law, first, num, shape, num_timesteps))  # type: ignore[no-any-return]
    # The last chunk may go beyond the last example, and what it makes there is thrown away.
    return jnp.take(jnp.asarray(start, jnp.float32), first + jnp.arange(num), axis=0, mode="clip")


def _check_start(start: Distribution | Array | None, num: int, shape: tuple[int, ...]) -> None:
    if start is not None and not isinstance(start, tuple) and jnp.shape(start) != (num, *shape):
        raise ValueError(f"start: must have shape {(num, *shape)}, or be a law, got shape {jnp.shape(start)}")


def _descend(
    key: Array, kernel: Kernel, reverse: Reverse, first: Array | int, x: Array, start: Array | int, num_steps: int
) -> Array:
    """From x at time `start`, `num_steps` reverse steps."""

    def step(x_t: Array, t: Array) -> tuple[Array, None]:
        num = x_t.shape[0]
        times = jnp.full(num, t, jnp.int32)
        p = reverse_step(_numbered(reverse, first + jnp.arange(num)), x_t, times)
        return kernel.place(p, _noise(key, kernel, first, num, x_t.shape[1:], t - 1)), None

    return loops.scan(step, x, start - jnp.arange(num_steps))[0]


def ancestral(
    key: Array,
    kernel: Kernel,
    reverse: Reverse,
    num: int,
    shape: tuple[int, ...],
    num_timesteps: int,
    *,
    chunk_size: int | None = None,
    start: Distribution | Array | None = None,
    first: Array | int = 0,
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
      start: x_T. A law that is the same for all examples, without a batch axis or with a batch of one; or
        the states themselves, [num, *shape]. None is the kernel's prior.
      first: number of the first sample, where they are a part of more, with the same result; needs a law as `start`.

    Returns:
      [num, *shape] float32.

    Raises:
      ValueError: if `start` is an array of another shape.
    """
    _check_start(start, num, shape)

    def draw(first: Array | int, num: int) -> Array:
        x_last = _start(key, kernel, start, first, num, shape, num_timesteps)
        return _descend(key, kernel, reverse, first, x_last, num_timesteps, num_timesteps)

    if chunk_size is None or chunk_size >= num:
        return draw(first, num)
    # As few chunks, of as even a size, as can be: the last is not padded to a whole one.
    num_chunks = -(-num // chunk_size)
    size = -(-num // num_chunks)
    chunks: Array = jax.lax.map(lambda i: draw(first + size * i, size), jnp.arange(num_chunks))
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
    start: Distribution | Array | None = None,
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
      start: as of `ancestral`.

    Returns:
      `Trajectory`; `x[-1]` are the samples.

    Raises:
      ValueError: if keep_every < 1, or if `start` is an array of another shape.
    """
    if keep_every < 1:
        raise ValueError(f"keep_every: must be at least 1, got {keep_every}")
    _check_start(start, num, shape)
    x = _start(key, kernel, start, 0, num, shape, num_timesteps)
    # The first stretch is the short one, so that all others begin at multiples of keep_every.
    whole, short = divmod(num_timesteps, keep_every)
    states, times = [x[None]], [jnp.asarray([num_timesteps])]
    if short:
        x = _descend(key, kernel, reverse, 0, x, num_timesteps, short)
        states.append(x[None])
        times.append(jnp.asarray([whole * keep_every]))

    def stretch(x: Array, start: Array) -> tuple[Array, Array]:
        x = _descend(key, kernel, reverse, 0, x, start, keep_every)
        return x, x

    starts = keep_every * jnp.arange(whole, 0, -1)
    states.append(loops.scan(stretch, x, starts)[1])
    times.append(starts - keep_every)
    return Trajectory(jnp.concatenate(times), jnp.concatenate(states))


def with_jumps(
    key: Array,
    kernel: Kernel,
    schedule: Schedule,
    reverse: Reverse,
    num: int,
    shape: tuple[int, ...],
    *,
    jump_length: int,
    num_repeats: int,
) -> Array:
    """As `ancestral`, going each stretch of the chain several times: down, noised up again, down (RePaint).

    For an approximate posterior (`posterior.condition`), each repetition lets what was put in its place and what the
    model made around it come to terms (Lugmayr et al. 2022, section 4.2). A reverse function
    that is exact samples the same law with any number of repetitions.

    Args:
      key: PRNG key.
      kernel: `gaussian` or `binomial`.
      schedule: of T steps.
      reverse: (x_t, t) -> distribution.
      num: how many samples.
      shape: of one example.
      jump_length: steps in a stretch.
      num_repeats: times that each stretch is gone; 1 is `ancestral`, with the same samples.

    Returns:
      [num, *shape] float32.

    Raises:
      ValueError: if jump_length or num_repeats is less than 1.
    """
    for name, value in (("jump_length", jump_length), ("num_repeats", num_repeats)):
        if value < 1:
            raise ValueError(f"{name}: must be at least 1, got {value}")

    def ascend(key: Array, x: Array, start: Array | int, length: int) -> Array:
        """From x at time start - length, forward steps up to `start`."""

        def step(x: Array, t: Array) -> tuple[Array, None]:
            q = kernel.forward(schedule, x, jnp.full(num, t, jnp.int32))
            return kernel.place(q, _noise(key, kernel, 0, num, shape, t)), None

        return loops.scan(step, x, start - length + 1 + jnp.arange(length))[0]

    def stretch(x: Array, start: Array | int, length: int) -> Array:
        x = _descend(key, kernel, reverse, 0, x, start, length)

        def again(x: Array, repeat: Array) -> tuple[Array, None]:
            up_key, down_key = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, 2**31), repeat))
            x = ascend(up_key, x, start, length)
            return _descend(down_key, kernel, reverse, 0, x, start, length), None

        return loops.scan(again, x, jnp.arange(1, num_repeats))[0]

    num_timesteps = schedule.num_timesteps
    x = _start(key, kernel, None, 0, num, shape, num_timesteps)
    whole, short = divmod(num_timesteps, jump_length)
    if short:
        x = stretch(x, num_timesteps, short)
    starts = jump_length * jnp.arange(whole, 0, -1)
    return loops.scan(lambda x, start: (stretch(x, start, jump_length), None), x, starts)[0]

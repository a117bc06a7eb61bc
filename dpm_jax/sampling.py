"""Ancestral sampling: x_T from the prior, then the model's reverse steps from T down to 1, as one scan.

The noise of an example at a time depends on the key, the example's number and the time
alone, not on the batch it is drawn in nor on how the batch is cut up. So samples are the
same, to float32 rounding of the network, however much is drawn at once. A chain need not begin
at the prior: `start` says where.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from dpm_jax.distributions import Distribution
from dpm_jax.distributions.base import Start, is_law
from dpm_jax.model import Model
from dpm_jax.numerics import loops, refuse
from dpm_jax.numerics.threefry import unrolled

__all__ = ["Numbered", "Trajectory", "sample", "trajectory", "with_jumps"]

# Examples that share a key. One key an example would cost small nets a tenth of a step.
_BLOCK = 16


class Trajectory(NamedTuple):
    """States kept on the way. t: int32 [n], falling from T to 0. x: [n, num, ...]."""

    t: Array
    x: Array


@dataclasses.dataclass(frozen=True)
class Numbered:
    """Reverse steps that are random themselves, by the number of the example and not by its place in the batch.

    Attributes:
      step: (x_t [B, ...], t int32 [B], number int32 [B]) -> distribution, of the examples of these numbers.
    """

    step: Callable[[Array, Array, Array], Distribution]

    def __call__(self, x_t: Array, t: Array) -> Distribution:
        """As any steps: the examples are the first ones."""
        return self.step(x_t, t, jnp.arange(x_t.shape[0]))


class _First(NamedTuple):
    """The number of the first example of a batch: block * _BLOCK + offset, known before tracing where possible."""

    block: Array | int
    offset: Array | int

    @property
    def number(self) -> Array | int:
        return self.block * _BLOCK + self.offset


def _first(number: Array | int) -> _First:
    return _First(number // _BLOCK, number % _BLOCK)


def _sample(key: Array, p: Any, first: _First, time: Array | int) -> Array:
    """Return a sample of each law of p, [num, ...], for examples that begin at `first` and for this time."""
    num = p.batch_shape[0]
    key = jax.random.fold_in(unrolled(key), time)
    most = first.offset if isinstance(first.offset, int) else _BLOCK - 1
    num_blocks = -(-(num + most) // _BLOCK)
    if num_blocks * _BLOCK != num or most:
        # Where a block is not of these examples alone, the nearest law stands in.
        row = jnp.clip(jnp.arange(num_blocks * _BLOCK) - first.offset, 0, num - 1)
        p = jax.tree.map(lambda values: loops.whole(values)[row], p)
    in_blocks = jax.tree.map(lambda values: values.reshape(num_blocks, _BLOCK, *values.shape[1:]), p)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, first.block + jnp.arange(num_blocks))
    drawn = jax.vmap(lambda key, p: p.sample(key))(keys, in_blocks)
    whole: Array = drawn.reshape(-1, *drawn.shape[2:])
    return whole if whole.shape[0] == num else jax.lax.dynamic_slice_in_dim(whole, first.offset, num)


def _last(
    key: Array, model: Model, start: Start | Array | None, first: _First, num: int, shape: tuple[int, ...]
) -> Array:
    """x_T of the examples that begin at `first`, [num, *shape]."""
    if start is None:
        start = model.process.prior((num, *shape))
    if not is_law(start):
        # The last chunk may go beyond the last example, and what it makes there is thrown away.
        return jnp.take(jnp.asarray(start), first.number + jnp.arange(num), axis=0, mode="clip")
    law: Any = start
    if law.batch_shape != (num,):
        law = jax.tree.map(
            lambda values: jnp.broadcast_to(values, (num, *jnp.shape(values)[len(law.batch_shape) :])), law
        )
    return _sample(key, law, first, model.num_timesteps)


def _check_start(start: Any, num: int, shape: tuple[int, ...]) -> None:
    if start is not None and not is_law(start) and jnp.shape(start) != (num, *shape):
        raise ValueError(f"start: must have shape {(num, *shape)}, or be a law, got shape {jnp.shape(start)}")


def _descend(key: Array, model: Model, first: _First, x: Array, start: Array | int, num_steps: int) -> Array:
    """From x at time `start`, `num_steps` reverse steps."""

    def step(x_t: Array, t: Array) -> tuple[Array, None]:
        num = x_t.shape[0]
        p = _numbered(model, first.number + jnp.arange(num)).reverse(x_t, jnp.full(num, t, jnp.int32))
        return _sample(key, p, first, t - 1), None

    return loops.scan(step, x, start - jnp.arange(num_steps))[0]


def _numbered(model: Model, number: Array) -> Model:
    """Return the model of the examples of these numbers."""
    steps = model.steps
    if not isinstance(steps, Numbered):
        return model
    return Model.from_steps(model.process, lambda x_t, t: steps.step(x_t, t, number))


def sample(
    key: Array,
    model: Model,
    num: int,
    shape: tuple[int, ...],
    *,
    chunk_size: int | None = None,
    start: Start | Array | None = None,
    first: Array | int = 0,
) -> Array:
    """Sample `num` examples x_0, with memory constant in T.

    Called eagerly it is compiled each time: wrap what you call repeatedly in `jax.jit`.

    Args:
      key: PRNG key.
      model: a process and a denoiser.
      num: how many samples.
      shape: of one example.
      chunk_size: samples at a time, one chunk after another, with the same result; None for all at once.
      start: x_T. A law that is the same for all examples, without a batch axis or with a batch of one; or
        the states themselves, [num, *shape]. None is the process' prior.
      first: number of the first sample, where they are a part of more, with the same result; needs a law as `start`.

    Returns:
      [num, *shape].

    Raises:
      ValueError: if `start` is an array of another shape, or the model's laws have another shape.
    """
    _check_start(start, num, shape)

    def draw(first: _First, num: int) -> Array:
        x_last = _last(key, model, start, first, num, shape)
        return _descend(key, model, first, x_last, model.num_timesteps, model.num_timesteps)

    if chunk_size is None or chunk_size >= num:
        return draw(_first(first), num)
    # As few chunks, of as even a size, as can be: the last is not padded to a whole one.
    num_chunks = -(-num // chunk_size)
    size = -(-num // num_chunks)
    begin = _first(first)

    def chunk(i: Array) -> Array:
        if size % _BLOCK == 0:
            return draw(_First(begin.block + i * (size // _BLOCK), begin.offset), size)
        return draw(_first(first + size * i), size)

    chunks: Array = jax.lax.map(chunk, jnp.arange(num_chunks))
    return chunks.reshape(-1, *shape)[:num]


def trajectory(
    key: Array,
    model: Model,
    num: int,
    shape: tuple[int, ...],
    *,
    keep_every: int = 1,
    start: Start | Array | None = None,
) -> Trajectory:
    """Sample as `sample` does, the same samples, keeping x_T, x_0 and every t divisible by `keep_every`.

    Args:
      key: PRNG key.
      model: a process and a denoiser.
      num: how many samples.
      shape: of one example.
      keep_every: k; memory is that of T / k states.
      start: as of `sample`.

    Returns:
      `Trajectory`; `x[-1]` are the samples.

    Raises:
      ValueError: if keep_every < 1, or if `start` is an array of another shape.
    """
    refuse.at_least_one(keep_every=keep_every)
    _check_start(start, num, shape)
    begin, num_timesteps = _first(0), model.num_timesteps
    x = _last(key, model, start, begin, num, shape)
    # The first stretch is the short one, so that all others begin at multiples of keep_every.
    whole, short = divmod(num_timesteps, keep_every)
    states, times = [x[None]], [jnp.asarray([num_timesteps])]
    if short:
        x = _descend(key, model, begin, x, num_timesteps, short)
        states.append(x[None])
        times.append(jnp.asarray([whole * keep_every]))

    def stretch(x: Array, start: Array) -> tuple[Array, Array]:
        x = _descend(key, model, begin, x, start, keep_every)
        return x, x

    starts = keep_every * jnp.arange(whole, 0, -1)
    states.append(loops.scan(stretch, x, starts)[1])
    times.append(starts - keep_every)
    return Trajectory(jnp.concatenate(times), jnp.concatenate(states))


def with_jumps(
    key: Array, model: Model, num: int, shape: tuple[int, ...], *, jump_length: int, num_repeats: int
) -> Array:
    """Sample as `sample` does, going each stretch of the chain several times: down, noised up again, down (RePaint).

    For an approximate posterior (`guidance.condition`), each repetition lets what was put in its place and what the
    model made around it come to terms (Lugmayr et al. 2022, section 4.2). Exact reverse steps
    sample the same law with any number of repetitions.

    Args:
      key: PRNG key.
      model: a process and a denoiser.
      num: how many samples.
      shape: of one example.
      jump_length: steps in a stretch.
      num_repeats: times that each stretch is gone; 1 is `sample`, with the same samples.

    Returns:
      [num, *shape].

    Raises:
      ValueError: if jump_length or num_repeats is less than 1.
    """
    refuse.at_least_one(jump_length=jump_length, num_repeats=num_repeats)
    begin = _first(0)

    def ascend(key: Array, x: Array, start: Array | int, length: int) -> Array:
        """From x at time start - length, forward steps up to `start`."""

        def step(x: Array, t: Array) -> tuple[Array, None]:
            return _sample(key, model.process.forward(x, jnp.full(num, t, jnp.int32)), begin, t), None

        return loops.scan(step, x, start - length + 1 + jnp.arange(length))[0]

    def stretch(x: Array, start: Array | int, length: int) -> Array:
        x = _descend(key, model, begin, x, start, length)

        def again(x: Array, repeat: Array) -> tuple[Array, None]:
            up_key, down_key = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, 2**31), repeat))
            x = ascend(up_key, x, start, length)
            return _descend(down_key, model, begin, x, start, length), None

        return loops.scan(again, x, jnp.arange(1, num_repeats))[0]

    num_timesteps = model.num_timesteps
    x = _last(key, model, None, begin, num, shape)
    whole, short = divmod(num_timesteps, jump_length)
    if short:
        x = stretch(x, num_timesteps, short)
    starts = jump_length * jnp.arange(whole, 0, -1)
    return loops.scan(lambda x, start: (stretch(x, start, jump_length), None), x, starts)[0]

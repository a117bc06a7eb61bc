"""Sequential Monte Carlo over the reverse chain: posteriors that become exact as particles are added.

The posterior over whole trajectories, p(x_{0:T}) r(x_0) / Z, is approached by a guided chain with steps
p~(x_{t-1} | x_t) and guesses psi_t(x_t) of E[r(x_0) | x_t] (`guidance.guide`). A particle at x_t that stands
for p(x_{t:T}) psi_t(x_t) moves on with weight

    p(x_{t-1} | x_t) psi_{t-1}(x_{t-1}) / (p~(x_{t-1} | x_t) psi_t(x_t)),    psi_0 = r,

and whenever the effective sample size of the weights falls below a share of the particles, they are resampled
in proportion to them, systematically (Doucet and Johansen 2009; Wu et al. 2023, for diffusion models). The
guesses cancel: whatever they are, the weighted particles converge to the posterior, and the
mean of the weights is an unbiased estimate of Z = E r(x_0), the probability of what was
observed. Good guesses keep the effective sample size high.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from dpm_jax import guidance
from dpm_jax.distributions.base import is_law
from dpm_jax.guidance import Evidence, How, Linear, Step
from dpm_jax.model import Model
from dpm_jax.numerics import loops, systematic

__all__ = ["Particles", "draw", "sample"]


class Particles(NamedTuple):
    """Weighted samples of B posteriors, N particles each.

    Attributes:
      x: [B, N, ...] x_0.
      log_weights: [B, N] normalised; all -inf where every particle was lost.
      log_evidence: [B] log of an unbiased estimate of Z = E r(x_0) under the model, nats; -inf where every
        particle was lost.
      stderr: [B] standard error of log_evidence, nats, by the shares of Z that the descendants of each of the N
        particles at x_T have (Chan and Lai 2013; Lee and Whiteley 2018). It is at most about 1, and above 0.5
        says only that log_evidence is not known: few of them have descendants. NaN where N is 1 or all were lost.
      effective_size: [T + 1, B] effective sample size, between 1 and N: index t before x_t is
        resampled, index 0 at the end. 0 where every particle was lost. It cannot show modes that no particle found.
      lost: [T + 1, B] int32, how many particles lost their weight at the same times because it could not be computed:
        it is no number, or a difference of numbers above 1e7, of which float32 keeps less than a nat.
      tail: [T + 1, B] estimate of the weights' tail index at the same times, from the largest N / 5 or 3 sqrt(N).
        Above 0.5 their variance is infinite (Vehtari et al. 2024): few particles, which hardly ever come
        up, have much of Z, so that effective_size and stderr are wrong and log_evidence is mostly too low.
    """

    x: Array
    log_weights: Array
    log_evidence: Array
    stderr: Array
    effective_size: Array
    lost: Array
    tail: Array

    @property
    def doubtful(self) -> Array:
        """Whether few particles dominate at any time, so that effective_size and stderr may be wrong; bool [B]."""
        return (self.tail > _HEAVY).any(axis=0) | (self.effective_size < _FEW).any(axis=0)


class _Told(NamedTuple):
    """The attributes of `Particles` of these names, at one time."""

    effective_size: Array
    lost: Array
    tail: Array


class _State(NamedTuple):
    """The scan's carry: x [B * N, ...]; log weights, the newly lost, ancestors at T, [B, N]; log Z, log_apart, [B]."""

    x: Array
    log_weights: Array
    lost: Array
    first: Array
    log_z: Array
    log_apart: Array


# Of tail indices and of effective sample sizes, see `Particles`.
_HEAVY, _FEW = 0.5, 10

# Neighbouring float32 numbers are 1 apart here: the weight of a particle is then known to a factor of e at best.
_LARGEST = 1e7


def _resample(key: Array, log_weights: Array, num: int) -> Array:
    """Return indices of [B, num] draws in proportion to the weights [B, N], with one uniform number a row."""
    largest = log_weights.max(axis=-1, keepdims=True)
    weights = jnp.exp(log_weights - jnp.where(jnp.isfinite(largest), largest, 0.0))
    return systematic.indices(jax.random.uniform(key, weights.shape[:1]), weights, num)


def _effective_size(log_weights: Array) -> Array:
    """(sum w)^2 / sum w^2, [B]; 0 where no particle has any weight."""
    total = jax.nn.logsumexp(log_weights, axis=-1)
    alive = jnp.isfinite(total)
    size = jnp.exp(2 * jnp.where(alive, total, 0.0) - jax.nn.logsumexp(2 * log_weights, axis=-1))
    return jnp.where(alive, size, 0.0)


def _tail(log_weights: Array) -> Array:
    """Hill's estimate of the tail index of the weights, [B], from the largest of [B, N]: those above 0 of them."""
    num = log_weights.shape[-1]
    most = min(-(-num // 5), math.ceil(3 * math.sqrt(num)), num - 1)
    largest = jax.lax.top_k(log_weights, most + 1)[0]
    alive = largest > -jnp.inf
    excess = jnp.where(alive, largest - jnp.where(alive, largest, jnp.inf).min(axis=-1, keepdims=True), 0.0)
    return excess.sum(axis=-1) / jnp.maximum(alive.sum(axis=-1) - 1, 1).astype(jnp.float32)


def _chance(log_weights: Array) -> Array:
    """Probability that resampling by chance, not by weight, makes one the ancestor of two particles; [B].

    Systematic counts are shares N w rounded up or down, of variance f (1 - f) with f the fraction.
    """
    num = log_weights.shape[-1]
    fraction = num * jax.nn.softmax(log_weights, axis=-1) % 1.0
    return (fraction * (1 - fraction)).sum(axis=-1) / num**2


def _stderr(weights: Array, first: Array, log_apart: Array) -> Array:
    """Relative standard error of Z, [B], of normalised weights [B, N] and ancestors among the first particles [B, N].

    The probability that two draws from the weights descend from one first particle, less what it would be if
    all weights on the way were alike (Lee and Whiteley 2018, theorem 1, there for independent draws):
    `log_apart` [B] is the log of the probability that no resampling joins them by chance.
    """
    num = weights.shape[-1]
    shares = jax.vmap(lambda weights, first: jnp.zeros(num).at[first].add(weights))(weights, first)
    excess = ((shares - 1 / num) ** 2).sum(axis=-1) + (1 - 1 / num) * jnp.expm1(log_apart)
    return jnp.sqrt(jnp.maximum(excess / (jnp.float32(1 - 1 / num) * jnp.exp(log_apart)), 0.0))


def _times(log_weights: Array, log_factor: Array, log_divisor: Array | float = 0.0) -> tuple[Array, Array]:
    """log of weight times factor, [B, N], and of which particles it could not be computed: their weight is 0 then."""
    impossible = log_weights == -jnp.inf
    # A factor of 0 is an answer, too.
    known = ((jnp.abs(log_factor) <= _LARGEST) | (log_factor == -jnp.inf)) & (jnp.abs(log_divisor) <= _LARGEST)
    product = jnp.where(known & ~impossible, log_weights + log_factor - log_divisor, -jnp.inf)
    return product, ~known & ~impossible


def _repeated(r: Any, num_particles: int) -> Any:
    """Evidence about x_0 [B, ...] as evidence about the particles [B * N, ...], those of a posterior side by side."""

    def rows(value: Array) -> Array:
        return jnp.repeat(loops.whole(value), num_particles, axis=0)

    if isinstance(r, Linear):
        # A, acting on each example alone, is called as with one batch of posteriors after another.
        variance = jnp.broadcast_to(jnp.asarray(r.variance, jnp.float32), r.y.shape)
        return Linear(_of_particles(r.operator, num_particles), rows(r.y), rows(variance))
    return _of_particles(r, num_particles) if callable(r) else jax.tree.map(rows, r)


def _of_particles(function: Any, num_particles: int) -> Any:
    """Return the function of [B, ...] for particles [B * N, ...]: its values of posterior b meet the particles of b."""
    each = jax.vmap(function, in_axes=1, out_axes=1)

    def of_particles(x: Array) -> Array:
        values = each(x.reshape(-1, num_particles, *x.shape[1:]))
        return values.reshape(-1, *values.shape[2:])  # type: ignore[no-any-return]

    return of_particles


def _size(r: Evidence, shape: tuple[int, ...] | None, num_posteriors: int | None) -> tuple[int, tuple[int, ...]]:
    """B, and the shape of an example."""
    law: Any = r
    given = law.batch_shape[0] if is_law(r) else r.y.shape[0] if isinstance(r, Linear) else None
    if num_posteriors is not None and given not in (None, 1, num_posteriors):
        raise ValueError(f"num_posteriors: the evidence is about {given}, got {num_posteriors}")
    if is_law(r) and shape not in (None, law.event_shape):
        raise ValueError(f"shape: the evidence is about examples of shape {law.event_shape}, got {shape}")
    if shape is None and not is_law(r):
        raise ValueError("shape: of an example, must be given with evidence that does not say it")
    return num_posteriors or given or 1, law.event_shape if shape is None else shape


def sample(
    key: Array,
    model: Model,
    r: Evidence,
    how: How,
    num_particles: int,
    *,
    shape: tuple[int, ...] | None = None,
    num_posteriors: int | None = None,
    threshold: float = 0.5,
    **settings: int,
) -> Particles:
    """Sample particles of the posteriors of a model given evidence, as one scan.

    Args:
      key: PRNG key.
      model: as of `guidance.condition`.
      r: evidence about x_0 of each of B posteriors: a law or `Linear` with a batch of B, or a function of
        [B, ...]. It is repeated for the particles here.
      how: the way that r acts along the chain, see `guidance`.
      num_particles: N.
      shape: of one example; that of the evidence where it is a law.
      num_posteriors: B; that of the evidence, 1 of a function.
      threshold: particles are resampled when the effective sample size falls below this share of N.
      **settings: `iterations` and `points` of `guidance.guide`.

    Returns:
      `Particles`.

    Raises:
      ValueError: as `guidance.guide`, or if shape or num_posteriors are not those of the evidence, or missing.
    """
    guidance.check(model, r, how, weights=True)
    num_posteriors, shape = _size(r, shape, num_posteriors)
    if is_law(r):
        # A batch of one is for all posteriors.
        r = jax.tree.map(lambda v: jnp.broadcast_to(v, (num_posteriors, *v.shape[1:])), r)
    r = _repeated(r, num_particles)
    guide = guidance.guide(model, r, how, **settings)
    num_timesteps = model.num_timesteps
    start_key, steps_key = jax.random.split(key)
    size = (num_posteriors, num_particles)
    batch = num_posteriors * num_particles

    def grouped(values: Array) -> Array:
        return values.reshape(*size, *values.shape[1:])

    def flat(values: Array) -> Array:
        return values.reshape(batch, *values.shape[2:])

    def advance(state: _State, t: Array) -> tuple[_State, Step, _Told]:
        """Weigh the particles at time t, resample where needed, and move on; return step and weight statistics."""
        choose_key, move_key = jax.random.split(jax.random.fold_in(steps_key, t))
        step = guide(state.x, jnp.full(batch, t, jnp.int32))
        log_weights, lost = _times(state.log_weights, grouped(step.log_twist))
        lost = (state.lost | lost).sum(axis=-1, dtype=jnp.int32)
        told = _Told(_effective_size(log_weights), lost, _tail(log_weights))
        effective = told.effective_size
        again = ((effective > 0) & (effective < threshold * num_particles))[:, None]
        index = jnp.where(again, _resample(choose_key, log_weights, num_particles), jnp.arange(num_particles)[None])

        def chosen(values: Array) -> Array:
            picked: Array = jax.vmap(lambda group, i: group[i])(values, index)
            return picked

        step = jax.tree.map(lambda values: flat(chosen(grouped(values))), step)
        # Their mean weight goes into the estimate of Z, and all weigh the same from there on.
        total = jax.nn.logsumexp(log_weights, axis=-1)
        log_z = jnp.where(again[:, 0], state.log_z + total - math.log(num_particles), state.log_z)
        chance = jnp.where(again[:, 0], _chance(jnp.where(again, log_weights, 0.0)), 0.0)
        log_weights = jnp.where(again, 0.0, log_weights)
        possible = log_weights > -jnp.inf
        log_weights = jnp.where(possible, log_weights - jnp.where(possible, grouped(step.log_twist), 0.0), -jnp.inf)
        x = step.posterior.sample(move_key)
        log_apart = state.log_apart + jnp.log1p(-chance)
        return _State(x, log_weights, state.lost, chosen(state.first), log_z, log_apart), step, told

    def weighed(state: _State, step: Step) -> _State:
        """With the weights of the move by this step."""
        log_p, log_q = (grouped(law.log_prob(state.x)) for law in (step.model, step.posterior))
        log_weights, lost = _times(state.log_weights, log_p, log_q)
        return state._replace(log_weights=log_weights, lost=lost)

    def scanned(state: _State, t: Array) -> tuple[_State, _Told]:
        state, step, told = advance(state, t)
        return weighed(state, step), told

    x_last = model.process.prior((batch, *shape)).sample(start_key)
    first = jnp.broadcast_to(jnp.arange(num_particles), size)
    nothing = jnp.zeros(num_posteriors, jnp.float32)
    state = _State(x_last, jnp.zeros(size, jnp.float32), jnp.zeros(size, bool), first, nothing, nothing)
    state, before = loops.scan(scanned, state, jnp.arange(num_timesteps, 1, -1))
    state, step, told = advance(state, jnp.asarray(1))
    if callable(r) or isinstance(r, Linear):
        state = weighed(state, step)
        log_weights, last_lost = _times(state.log_weights, grouped(guidance.log_likelihood(r, state.x)))
        last_lost = last_lost | state.lost
    else:
        # The last step is the product in closed form, known coordinates and all: its weight is its Z.
        log_weights, last_lost = _times(state.log_weights, grouped(step.model.product(r)[1]))
    at_end = _Told(_effective_size(log_weights), last_lost.sum(axis=-1, dtype=jnp.int32), _tail(log_weights))
    total = jax.nn.logsumexp(log_weights, axis=-1)
    alive = jnp.isfinite(total)
    normalised = jnp.where(alive[:, None], log_weights - jnp.where(alive, total, 0.0)[:, None], -jnp.inf)
    return Particles(
        x=grouped(state.x),
        log_weights=normalised,
        log_evidence=state.log_z + total - math.log(num_particles),
        stderr=jnp.where(alive, _stderr(jnp.exp(normalised), state.first, state.log_apart), jnp.nan),
        **jax.tree.map(lambda *parts: jnp.vstack(parts)[::-1], before, told, at_end)._asdict(),
    )


def draw(key: Array, particles: Particles, num: int) -> Array:
    """Draw from each posterior without weights, [B, num, ...]; a particle may come up more than once."""
    choose_key, order_key = jax.random.split(key)
    index = _resample(choose_key, particles.log_weights, num)
    # In random order, so that any first few of them are draws, too.
    index = jax.random.permutation(order_key, index, axis=1, independent=True)
    drawn: Array = jax.vmap(lambda x, i: x[i])(particles.x, index)
    return drawn

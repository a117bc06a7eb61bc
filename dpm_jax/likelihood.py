"""The model's log-likelihood by annealed importance sampling over trajectories (equation 9), bounded from both sides.

    p(x_0) = E_q w,     w = p(x_{0:T}) / q(x_{1:T} | x_0),     x_{1:T} ~ q(x_{1:T} | x_0)     equations 6 to 9

The paper writes w with the forward steps, p(x_T) prod_t p(x_{t-1} | x_t) / q(x_t | x_{t-1}). By Bayes' rule the same
trajectory has the same weight with the forward chain run backwards, from x_T ~ q(x_T | x_0) down,

    w = p(x_T) / q(x_T | x_0)  prod_{t=2}^{T} p(x_{t-1} | x_t) / q(x_{t-1} | x_t, x_0)  p(x_0 | x_1),

which is what `log_weights` sums: each factor compares two laws of the same x_{t-1}, which are near each other, so that
weights are as quiet as the model is good, step by step, and no large terms of opposite sign meet. Float32 adds
the rounding of x_t against the width of a step: some 2e-4 nats a trajectory, of either sign, at a width of 1e-4.

Lower. By Jensen's inequality E log (1/k) sum_{i<=k} w_i <= log p(x_0): at k = 1 this is K of equation 14, and it rises
with k to log p(x_0) (Burda et al. 2016, theorem 1). It is a stochastic bound: it holds in the mean. A rare trajectory
may outweigh all others, which the effective sample size of its example then says.

Upper. Where x_0 is drawn from the model, the trajectory that it was drawn with is an exact draw from the posterior
p(x_{1:T} | x_0), and with its weight as one of the k, the others as above, E log (1/k) sum_{i<=k} w_i >= log p(x_0)
(Grosse et al. 2015, bidirectional Monte Carlo; Sobolev and Vetrov 2019, theorem 1). So the model's log-likelihood of
its samples is sandwiched, and the width says how far AIS can be trusted at this k. Data have no such
trajectory: for them there is the lower bound only.

For bits these are log-probabilities. All in nats, one number an example.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from dpm_jax.bound import Edge, edge_log_prob
from dpm_jax.model import Model
from dpm_jax.numerics import loops

__all__ = [
    "Conditional",
    "Sandwich",
    "conditional",
    "effective_sample_size",
    "enumerate_bits",
    "log_mean",
    "log_weights",
    "lower",
    "sandwich",
    "upper",
]

# 4^d transitions a step: 2^24 numbers at 12.
_MAX_BITS = 12


class Sandwich(NamedTuple):
    """Samples of the model, and what bounds their log-likelihood from both sides; nats.

    Attributes:
      x_0: [num, *shape] samples.
      own: [num] log-weight of the trajectory that each was drawn with, for `upper`.
      log_weights: [num, k] log-weights of forward trajectories from each, for `lower` and `upper`.
    """

    x_0: Array
    own: Array
    log_weights: Array


def _in_chunks(key: Array, draw: Callable[[Array, Array], Any], num: int, chunk_size: int | None) -> Any:
    """draw(key, numbers [n]) for the numbers 0..num - 1, at most `chunk_size` at a time, as one scan."""
    num_chunks = 1 if chunk_size is None else -(-num // chunk_size)
    # Chunks of as even a size as can be: the last is not padded to a whole one.
    size = -(-num // num_chunks)

    def chunk(i: Array) -> Any:
        return draw(jax.random.fold_in(key, i), jnp.minimum(i * size + jnp.arange(size), num - 1))

    parts = jax.lax.map(chunk, jnp.arange(num_chunks))
    return jax.tree.map(lambda part: part.reshape(-1, *part.shape[2:])[:num], parts)


def _forward_log_weight(key: Array, model: Model, x_0: Array, edge: Edge) -> Array:
    """log w of one trajectory x_{1:T} ~ q(. | x_0) an example, drawn from its end; [B]."""
    start_key, step_key = jax.random.split(key)
    process, first = model.process, jnp.ones(x_0.shape[0], jnp.int32)
    q_last = process.marginal(x_0, process.num_timesteps * first)
    x_last = q_last.sample(start_key)
    log_w = process.prior(x_last.shape).log_prob(x_last) - q_last.log_prob(x_last)

    def step(state: tuple[Array, Array], t: Array) -> tuple[tuple[Array, Array], None]:
        x_t, log_w = state
        q = process.posterior(x_0, x_t, t * first)
        x_prev = q.sample(jax.random.fold_in(step_key, t))
        log_ratio = model.reverse(x_t, t * first).log_prob(x_prev) - q.log_prob(x_prev)
        return (x_prev, log_w + log_ratio), None

    (x_1, log_w), _ = loops.scan(step, (x_last, log_w), jnp.arange(process.num_timesteps, 1, -1))
    return log_w + edge_log_prob(edge, model.reverse(x_1, first), x_0)


def _model_trajectory(key: Array, model: Model, num: int, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """x_0 [num, *shape] from the model, and log w of the trajectory that led there, [num].

    Here w is the paper's form: x_0, and with it q(x_{t-1} | x_t, x_0), is known only at the end of the scan.
    """
    start_key, step_key = jax.random.split(key)
    first = jnp.ones(num, jnp.int32)
    prior = model.process.prior((num, *shape))
    x_last = prior.sample(start_key)

    def step(state: tuple[Array, Array], t: Array) -> tuple[tuple[Array, Array], None]:
        x_t, log_w = state
        p = model.reverse(x_t, t * first)
        x_prev = p.sample(jax.random.fold_in(step_key, t))
        log_forward = model.process.forward(x_prev, t * first).log_prob(x_t)
        return (x_prev, log_w + (p.log_prob(x_prev) - log_forward)), None

    times = jnp.arange(model.num_timesteps, 0, -1)
    return loops.scan(step, (x_last, prior.log_prob(x_last)), times)[0]


def log_weights(
    key: Array,
    model: Model,
    x_0: Array,
    num_trajectories: int,
    *,
    edge: Edge = "decoder",
    chunk_size: int | None = None,
) -> Array:
    """log p(x_{0:T}) / q(x_{1:T} | x_0) of forward trajectories: a scan, memory constant in T (equation 9).

    Args:
      key: PRNG key.
      model: a process and a denoiser; p(x_0 | x_1) is its own, for which `model.forward_edge` sets the forward kernel.
      x_0: [B, ...] data.
      num_trajectories: k of each example.
      edge: "decoder" for the law's own log-probability of x_0, or a function as in `bound`, such as `Grid.log_prob`.
      chunk_size: number of trajectories at a time, which bounds memory; all B k at once if None. The noise
        depends on it.

    Returns:
      [B, k] nats, independent along k, each E w = p(x_0).

    Raises:
      ValueError: if `edge` is neither, if x_0 is no data of this process, or if the model's laws have another shape.
    """
    x_0 = jnp.asarray(x_0)

    def draw(key: Array, rows: Array) -> Array:
        return _forward_log_weight(key, model, loops.whole(x_0)[rows // num_trajectories], edge)

    rows: Array = _in_chunks(key, draw, x_0.shape[0] * num_trajectories, chunk_size)
    return rows.reshape(x_0.shape[0], num_trajectories)


def _groups(log_weights: Array, size: int, k: int) -> Array:
    """[B, K] as disjoint groups of `size`, [B, K // size, size]; those left over are dropped."""
    batch, most = log_weights.shape
    if not 1 <= size <= most:
        raise ValueError(f"k: {k} asks for groups of {size} log-weights, there are {most} an example")
    return log_weights[:, : most // size * size].reshape(batch, -1, size)


def lower(log_weights: Array, k: int) -> Array:
    """Stochastic lower bound on log p(x_0): log (1/k) sum of k weights, averaged over disjoint groups of k.

    Args:
      log_weights: [B, K] of `log_weights`.
      k: at most K.

    Returns:
      [B] nats, unbiased for E log (1/k) sum_{i<=k} w_i, which is K of equation 14 at k = 1 and rises with k.

    Raises:
      ValueError: if k is not in 1..K.
    """
    return jnp.mean(jax.nn.logsumexp(_groups(log_weights, k, k), axis=-1) - jnp.log(k), axis=-1)


def upper(own: Array, log_weights: Array, k: int) -> Array:
    """Stochastic upper bound on log p(x_0) for x_0 from the model, from its own trajectory and k - 1 others.

    Args:
      own: [B] log-weight of the trajectory that x_0 was drawn with, of `sandwich`.
      log_weights: [B, K] of forward trajectories.
      k: 1, which needs no others, to K + 1.

    Returns:
      [B] nats, averaged over disjoint groups of k - 1; falls with k.

    Raises:
      ValueError: if k is not in 1..K + 1.
    """
    if k == 1:
        return own
    others = _groups(log_weights, k - 1, k)
    total = jnp.logaddexp(jax.nn.logsumexp(others, axis=-1), own[:, None])
    return jnp.mean(total - jnp.log(k), axis=-1)


def effective_sample_size(log_weights: Array, k: int | None = None) -> Array:
    """(sum w)^2 / sum w^2, between 1 and k: how many trajectories carry the estimate (Kong 1992).

    Args:
      log_weights: [B, K].
      k: of groups of k, averaged over them; K if None.

    Returns:
      [B].

    Raises:
      ValueError: if k is not in 1..K.
    """
    k = log_weights.shape[1] if k is None else k
    groups = _groups(log_weights, k, k)
    # Against the largest weight: the square of a sum of e^-3000 would be lost.
    return jnp.mean(jnp.exp(2 * jax.nn.logsumexp(groups, -1) - jax.nn.logsumexp(2 * groups, -1)), axis=-1)


def log_mean(log_weights: Array) -> tuple[Array, Array]:
    """Return the log of the mean weight, and its standard error to first order in that of the mean.

    Args:
      log_weights: [B, k] nats.

    Returns:
      [B] nats, `lower` of all k; [B] nats, NaN for k = 1.
    """
    k = log_weights.shape[-1]
    shares = jax.nn.softmax(log_weights, axis=-1)
    variance = ((shares - 1 / k) ** 2).sum(axis=-1) * k / jnp.float32(k - 1)
    return lower(log_weights, k), jnp.sqrt(variance)


class Conditional(NamedTuple):
    """log p(hidden part of x_0 | observed part) of each example, [B] nats, and its standard error."""

    log_prob: Array
    stderr: Array


def conditional(log_weights: Array, log_evidence: Array, stderr: Array) -> Conditional:
    """Return log p(hidden | observed) = log p(hidden, observed) - log p(observed).

        found = smc.sample(key, model, Normal.known(x_0, observed), "denoised", 1000)
        conditional(log_weights(key, model, x_0, 1000), found.log_evidence, found.stderr)

    Both estimates are unbiased before the logarithm, and low in the mean after it: so the difference is an estimate
    and no bound, right as trajectories and particles become many.

    Args:
      log_weights: [B, k] of `log_weights` of x_0, k > 1.
      log_evidence: [B] log p(observed), of `smc.Particles`.
      stderr: [B] its standard error.
    """
    log_prob, error = log_mean(log_weights)
    return Conditional(log_prob - log_evidence, jnp.sqrt(error**2 + stderr**2))


def sandwich(
    key: Array,
    model: Model,
    num: int,
    shape: tuple[int, ...],
    k: int,
    *,
    chunk_size: int | None = None,
) -> Sandwich:
    """Return samples of the model with the weights that bound their log-likelihood on both sides, see above.

    Args:
      key: PRNG key.
      model: a process and a denoiser.
      num: how many samples.
      shape: of one.
      k: forward trajectories of each.
      chunk_size: number of trajectories at a time; all at once if None.

    Returns:
      `Sandwich` s: `lower(s.log_weights, k)` and `upper(s.own, s.log_weights, k)`, [num] nats, at this and smaller k.
    """
    model_key, forward_key = jax.random.split(key)

    def draw(key: Array, rows: Array) -> tuple[Array, Array]:
        return _model_trajectory(key, model, len(rows), shape)

    x_0, own = _in_chunks(model_key, draw, num, chunk_size)
    forward = log_weights(forward_key, model, x_0, k, chunk_size=chunk_size)
    return Sandwich(x_0, own, forward)


def enumerate_bits(model: Model, num_bits: int) -> tuple[Array, Array]:
    """log p(x_0) of a binomial model for every string there is: no sampling, no bound (equation 6).

    The T transition matrices between the 2^d strings, multiplied in the log domain from p(x_T), fair coins, down.

    Args:
      model: of bits; its steps are `Bernoulli`.
      num_bits: d, 1 to 12; a step costs 4^d.

    Returns:
      strings [2^d, d] of 0.0 and 1.0, the first bit the highest; log p(x_0) [2^d] nats.

    Raises:
      ValueError: if d is out of range.
    """
    if not 1 <= num_bits <= _MAX_BITS:
        raise ValueError(f"num_bits: 1 to {_MAX_BITS} bits can be enumerated, got {num_bits}")
    num = 2**num_bits
    strings = (jnp.arange(num)[:, None] >> jnp.arange(num_bits - 1, -1, -1)[None] & 1).astype(jnp.float32)

    def step(log_p: Array, t: Array) -> tuple[Array, None]:
        # A certain bit's -inf would meet a zero in the product, and be NaN.
        logits = jnp.clip(model.reverse(strings, jnp.full(num, t, jnp.int32)).logits, -1e4, 1e4)
        one, zero = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
        # Accelerators multiply float32 matrices in fewer bits by default.
        moves = jnp.matmul(one, strings.T, precision="highest") + jnp.matmul(zero, 1 - strings.T, precision="highest")
        return jax.nn.logsumexp(log_p[:, None] + moves, axis=0), None

    start = jnp.full(num, -num_bits * jnp.log(2.0))
    return strings, loops.scan(step, start, jnp.arange(model.num_timesteps, 0, -1))[0]

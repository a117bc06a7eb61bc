"""The lower bound K on the log-likelihood (equation 14), of any model.

    K = E log p(x_0 | x_1)                                     edge
        - sum_{t=2}^{T} E KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t))
        - KL(q(x_T | x_0) || p(x_T))                            prior

The paper writes the last term as entropies, H_q(X_T | X_0) - H_p(X_T), which is the same
where q(x_T) has the prior's moments; here it is exact for each x_0.

The edge is one of these:

    "forward"  the paper's (appendix B.2): p(x_0 | x_1) is the forward kernel run backwards,
               q(x_1 | x_0) pi(x_0) / pi(x_1), whose expectation is
               -H_q(X_1 | X_0) + log pi(x_0) - E log pi(x_1) = KL(q(x_1 | x_0) || pi) + log pi(x_0),
               in closed form. For bits the pi cancel and -H_q(X_1 | X_0) is left. The process must be
               reversible with respect to pi.
    "decoder"  the model's p(x_0 | x_1), estimated at one x_1 an example; the usual ELBO.

or a function (p(x_0 | x_1), x_0) -> log-probability [B], in place of the law's `log_prob` in
the second: `Normal.bin_log_prob` makes a density model one of 8-bit pixels.

Results are nats an example. K is a bound: it is never called the likelihood.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dpm_jax import timesteps
from dpm_jax.distributions import Distribution
from dpm_jax.model import Model
from dpm_jax.numerics import loops, refuse, shuffle
from dpm_jax.numerics.threefry import unrolled
from dpm_jax.processes import Process

__all__ = [
    "Bound",
    "Edge",
    "Estimate",
    "Mean",
    "estimate",
    "evaluate",
    "fixed_terms",
    "forward_edge_term",
    "limit",
    "mean_and_stderr",
    "prior_term",
]

Edge = Literal["forward", "decoder"] | Callable[[Distribution, Array], Array]


class Bound(NamedTuple):
    """K of a batch, in nats, split into its terms.

    Attributes:
      k: [B] K of each example: edge - kl - prior_kl.
      edge: [B] E log p(x_0 | x_1).
      kl: [B] the sum over t = 2..T of the KL terms.
      prior_kl: [B] KL(q(x_T | x_0) || p(x_T)).
      kl_per_step: [T + 1] batch mean of the KL term at each t; 0 at 0 and 1.
      entropy_first: [B] H_q(X_1 | X_0).
      entropy_last: [B] H_q(X_T | X_0).
      entropy_prior: [B] H_p(X_T).
    """

    k: Array
    edge: Array
    kl: Array
    prior_kl: Array
    kl_per_step: Array
    entropy_first: Array
    entropy_last: Array
    entropy_prior: Array


class Mean(NamedTuple):
    """A mean and its standard error."""

    mean: Array
    stderr: Array


class Estimate(NamedTuple):
    """K of a batch from a few t of each example, in nats.

    Attributes:
      k: [B] unbiased estimates, one for each example.
      mean: their mean.
      stderr: the standard error of the mean, over examples, noise and times. The examples are taken for independent
        draws, in whatever order; NaN for a single one.
      t: [B * num_times], the times visited, int32 (real in `limit`), those of an example next to each other.
      kl: [B * num_times] the KL terms found there, not weighted; 0 with T = 1.
    """

    k: Array
    mean: Array
    stderr: Array
    t: Array
    kl: Array


def mean_and_stderr(values: Array) -> Mean:
    """Return the mean over independent examples, [N], and its standard error, NaN for a single example."""
    return Mean(jnp.mean(values), jnp.std(values, ddof=1) / jnp.sqrt(values.shape[0]))


def forward_edge_term(process: Process, x_0: Array, t: Array) -> Array:
    """Return the edge of a chain whose first time is t, p(x_0 | x_t) the forward kernel run backwards, [B] nats."""
    prior = process.prior(jnp.shape(x_0))
    return process.marginal(x_0, t).kl(prior) + prior.log_prob(x_0)


def edge_log_prob(edge: Edge, p: Distribution, x_0: Array) -> Array:
    """Return log p(x_0 | x_1) of a decoder's law, [B] nats.

    Raises:
      ValueError: if `edge` is neither "decoder" nor a function.
    """
    if edge == "forward":
        raise ValueError("edge: 'forward' is no law of a decoder; use 'decoder' or a function")
    check_edge(edge)
    return edge(p, x_0) if callable(edge) else p.log_prob(x_0)


def check_edge(edge: Edge) -> None:
    """Refuse what is no treatment of p(x_0 | x_1), by a ValueError."""
    if edge not in ("forward", "decoder") and not callable(edge):
        raise ValueError(f"edge: must be 'forward', 'decoder' or a function, got {edge!r}")


def _edge_term(key: Array, model: Model, x_0: Array, edge: Edge) -> Array:
    first = jnp.ones(x_0.shape[0], jnp.int32)
    if edge == "forward":
        return forward_edge_term(model.process, x_0, first)
    return edge_log_prob(edge, model.reverse(model.process.marginal(x_0, first).sample(key), first), x_0)


def _kl_term(key: Array, model: Model, x_0: Array, t: Array) -> Array:
    """KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) at one draw of x_t, [B]; t in 2..T."""
    x_t = model.process.marginal(x_0, t).sample(key)
    return model.process.posterior(x_0, x_t, t).kl(model.reverse(x_t, t))


def prior_term(process: Process, x_0: Array) -> Array:
    """Return KL(q(x_T | x_0) || p(x_T)), [B] nats."""
    x_0 = jnp.asarray(x_0)
    last = jnp.full(x_0.shape[0], process.num_timesteps, jnp.int32)
    return process.marginal(x_0, last).kl(process.prior(x_0.shape))


def fixed_terms(process: Process, x_0: Array, edge: Edge = "forward") -> Array:
    """Return the sum of the terms of K in which no network enters: minus the prior's, and the edge where "forward".

    Args:
      process: of the model.
      x_0: [B, ...] data.
      edge: the treatment of p(x_0 | x_1), see above.

    Returns:
      [B] nats.
    """
    prior_kl = prior_term(process, x_0)
    if edge != "forward":
        return -prior_kl
    return forward_edge_term(process, x_0, jnp.ones(x_0.shape[0], jnp.int32)) - prior_kl


def evaluate(key: Array, model: Model, x_0: Array, *, edge: Edge = "forward", num_times: int | None = None) -> Bound:
    """Return K with every t visited, one draw of x_t an example and t: a scan, memory constant in T.

    So is that of its gradient, but for one number an example and t: each step is computed again on the way back. For
    long chains, `num_times` visits one t of each of as many equal stretches, drawn for each example, which is unbiased.

    Args:
      key: PRNG key.
      model: a process and a denoiser.
      x_0: [B, ...] data.
      edge: the treatment of p(x_0 | x_1), see above.
      num_times: t visited of 2..T; None, or as many as there are, for each of them.

    Returns:
      `Bound`, nats; `mean_and_stderr(bound.k)` for the batch. `kl_per_step` is constant over a stretch.

    Raises:
      ValueError: if `edge` is none of these, if `num_times` is less than 1, if x_0 is no data of this process, or if
        the model's laws have another shape.
    """
    x_0, process = jnp.asarray(x_0), model.process
    batch, num_timesteps = x_0.shape[0], process.num_timesteps
    edge_key, kl_key = jax.random.split(unrolled(key))
    num_terms = num_timesteps - 1
    if num_times is not None:
        refuse.at_least_one(num_times=num_times)
    num = min(num_terms, num_times or num_terms)
    # The first time of each stretch, and the number of times in it.
    first, length = 2 + np.arange(num) * num_terms // max(num, 1), np.ones(num, int)
    if num < num_terms:
        length = np.diff(first, append=num_timesteps + 1)

    def add_step(total: Array, stretch: tuple[Array, Array]) -> tuple[Array, Array]:
        first, length = stretch
        step_key, times = jax.random.fold_in(kl_key, first), jnp.full(batch, first, jnp.int32)
        if num < num_terms:
            step_key, time_key = jax.random.split(step_key)
            times += jax.random.randint(time_key, (batch,), 0, length)
        kl = _kl_term(step_key, model, x_0, times)
        return total + length.astype(jnp.float32) * kl, jnp.mean(kl)

    kl, per_step = loops.scan(
        jax.checkpoint(add_step, prevent_cse=False), jnp.zeros(batch), (jnp.asarray(first), jnp.asarray(length))
    )
    per_step = jnp.repeat(per_step, length, total_repeat_length=num_terms)
    edge_term = _edge_term(edge_key, model, x_0, edge)
    prior_kl = prior_term(process, x_0)
    one = jnp.ones(batch, jnp.int32)
    return Bound(
        k=edge_term - kl - prior_kl,
        edge=edge_term,
        kl=kl,
        prior_kl=prior_kl,
        kl_per_step=jnp.concatenate([jnp.zeros(2), per_step]),
        entropy_first=process.marginal(x_0, one).entropy(),
        entropy_last=process.marginal(x_0, num_timesteps * one).entropy(),
        entropy_prior=process.prior(x_0.shape).entropy(),
    )


def estimate(
    key: Array,
    model: Model,
    x_0: Array,
    *,
    edge: Edge = "forward",
    time_sampler: timesteps.TimeSampler = timesteps.low_discrepancy,
    num_times: int = 1,
    fixed: Array | None = None,
) -> Estimate:
    """Return unbiased estimates of K from a few t of each example, for training: minus their mean is the loss.

    Differentiable in whatever the model depends on, a schedule of the Gaussian process too; the noise depends on `key`
    alone. The times are dealt to the examples at random, so that the batch may be sorted. The standard error takes
    the examples for independent: do not repeat them, but raise `num_times`.

    Args:
      key: PRNG key.
      model: a process and a denoiser.
      x_0: [B, ...] data, each example once.
      edge: the treatment of p(x_0 | x_1), see above.
      time_sampler: one of `timesteps`, or any function like them.
      num_times: t of each example, all of which go through the model at once, together with the edge's.
      fixed: [B] or a scalar, taken for `fixed_terms`, nats; None for these themselves. They have no gradient where
        the schedule has none, and hardly depend on x_0, so training needs them for the value of the loss alone.

    Returns:
      `Estimate`, nats.

    Raises:
      ValueError: if `edge` is none of these, if `num_times` is less than 1, if x_0 is no data of this process, or if
        the model's laws have another shape.
    """
    process = model.process

    def term(x_0: Array, x_t: Array, t: Array, p: Distribution) -> Array:
        return process.posterior(x_0, x_t, t).kl(p)

    how: Any = {"time_sampler": time_sampler, "law": model.reverse, "term": term}
    return _from_few_times(key, model, x_0, edge, num_times, fixed, **how)


def limit(
    key: Array,
    model: Model,
    x_0: Array,
    *,
    edge: Edge = "forward",
    time_sampler: timesteps.TimeSampler = timesteps.continuous,
    num_times: int = 1,
    fixed: Array | None = None,
) -> Estimate:
    """Return unbiased estimates of K as the steps between 1 and T become infinitely many (Kingma et al. 2021, VDM).

    The sum of KL terms becomes an integral over t of the process's `kl_rate`. For normal noise it is an integral over
    the signal-to-noise ratio, in which the mean of p(x_0 | x_t) is left,

        1/2 integral of E |x_0 - E_p[x_0 | x_t]|^2 d SNR,   SNR = alpha_bar_t / sigma2_t from t = T to t = 1,

    and for bits the KL of two jump processes. Both depend on the schedule through its ends alone. The integral is
    estimated at real times t, so the model's denoiser must take them: those of
    `predictions` with variance "mixed" or full covariance, and of bits with prediction "x_0", do if the network does.
    Trained on it, a network serves chains of any number of steps, see `respacing`.

    Args:
      key: PRNG key.
      model: with a denoiser; the T steps of its process say where the times are looked for.
      x_0: [B, ...] data, each example once.
      edge: as of `estimate`.
      time_sampler: of real times, `timesteps.continuous` or `timesteps.importance` with `real`.
      num_times: as of `estimate`.
      fixed: as of `estimate`.

    Returns:
      `Estimate`, nats; `kl` is the integrand for a step of t of 1.

    Raises:
      ValueError: as `estimate`, or if the process has no `kl_rate`.
    """
    process: Any = model.process
    if not hasattr(process, "kl_rate"):
        raise ValueError(f"model: the limit needs a process with `kl_rate`, and {type(process).__name__} has none")

    def term(x_0: Array, x_t: Array, t: Array, p: Any) -> Array:
        rate: Array = process.kl_rate(x_0, p, x_t, t)
        return rate

    how: Any = {"time_sampler": time_sampler, "law": model.denoised, "term": term}
    return _from_few_times(key, model, x_0, edge, num_times, fixed, **how)


def _from_few_times(
    key: Array,
    model: Model,
    x_0: Array,
    edge: Edge,
    num_times: int,
    fixed: Array | None,
    *,
    time_sampler: timesteps.TimeSampler,
    law: Callable[[Array, Array], Any],
    term: Callable[[Array, Array, Array, Any], Array],
) -> Estimate:
    """Return `estimate` or `limit`, which differ in the times, in `law` and in `term`.

    `law` is (x_t, t) -> the law of the model that `term` takes, at t = 1 that of x_0; `term` is
    (x_0, x_t, t, law) -> [B] nats, whose weighted mean over the times is their sum over t.
    """
    refuse.at_least_one(num_times=num_times)
    x_0, process = jnp.asarray(x_0), model.process
    time_key, noise_key, edge_key, deal_key = jax.random.split(key, 4)
    batch, num_timesteps = x_0.shape[0], model.num_timesteps
    # The times of an example next to each other: where the batch is spread over devices, they stay where it is.
    copies = jnp.broadcast_to(x_0[:, None], (batch, num_times, *x_0.shape[1:]))
    repeated = copies.reshape(batch * num_times, *x_0.shape[1:])

    def averaged(values: Array) -> Array:
        return values.reshape(batch, num_times).mean(axis=1)

    rest = fixed_terms(process, x_0, edge) if fixed is None else jnp.broadcast_to(fixed, (batch,))
    if num_timesteps == 1:
        k = rest if edge == "forward" else averaged(_edge_term(edge_key, model, repeated, edge)) + rest
        nothing = jnp.ones(num_times * batch, jnp.int32), jnp.zeros(num_times * batch)
        return Estimate(k, *mean_and_stderr(k), *nothing)
    draw = jax.vmap(lambda key: time_sampler(key, batch, num_timesteps))(jax.random.split(time_key, num_times))
    # One permutation for all draws: the examples in its order are in the order of each draw.
    place = shuffle.order(deal_key, batch)
    t, weight = (values[:, place].T.reshape(-1) for values in (draw.t, draw.weight))
    x_t = process.marginal(repeated, t).sample(noise_key)
    if edge == "forward":
        p = law(x_t, t)
    else:
        # The edge and the term at t from one call of the model.
        first = jnp.ones_like(t)
        x_1 = process.marginal(repeated, first).sample(edge_key)
        both = law(_interleave(x_1, x_t), _interleave(first, t))
        at_edge, p = (jax.tree.map(lambda values, i=i: values[i::2], both) for i in (0, 1))
        rest = rest + averaged(edge_log_prob(edge, at_edge, repeated))
    kl = term(repeated, x_t, t, p)
    k = rest - averaged(weight * kl)
    in_order = jnp.zeros(batch, k.dtype).at[place].set(loops.whole(k))
    return Estimate(k, jnp.mean(k), timesteps.stderr_of_mean(in_order, draw.design), t, kl)


def _interleave(one: Array, other: Array) -> Array:
    """Two batches as one, examples of the same number side by side, which leaves them on the device that they are."""
    return jnp.stack([one, other], axis=1).reshape(-1, *one.shape[1:])

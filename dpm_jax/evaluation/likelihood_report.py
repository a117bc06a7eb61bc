"""The gap between K and the likelihood: AIS over trajectories, sandwiches, entropies of the steps; in bits."""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dpm_jax import entropy, likelihood
from dpm_jax.data import Source
from dpm_jax.evaluation.estimate import Estimate
from dpm_jax.evaluation.report import Report, check_examples
from dpm_jax.evaluation.table import Cell, aligned
from dpm_jax.model import Model
from dpm_jax.numerics.shapes import chunk_size
from dpm_jax.training import mesh
from dpm_jax.training.experiment import Experiment, Params
from dpm_jax.units import bits_per_part

__all__ = ["Entropies", "LikelihoodReport", "Sandwich", "evaluate", "largest_k", "num_examples", "table"]

# Calls of the network that one estimate may cost where the user does not say: some 10 s on two CPU cores, images more.
_VECTOR_CALLS, _IMAGE_CALLS = 10_000_000, 8_000
_VECTOR_K, _IMAGE_K = 1000, 10
# Examples at least and at most, where the user does not say.
_FEWEST, _MOST, _MOST_FOR_ENTROPY = 4, 100, 4096
# Trajectories at a time, of small examples.
_CHUNK = 8192
# Bits of which the model's own probabilities are enumerated; and times at which true entropies are.
_MAX_MODEL_BITS, _MAX_TIMES = 10, 32


class Sandwich(NamedTuple):
    """Stochastic bounds on the log-likelihood of the model's own samples, [k] each, and upper - lower, paired."""

    lower_bits: Estimate
    upper_bits: Estimate
    width_bits: Estimate


class _TrueEntropies(NamedTuple):
    """Entropies at some t, enumerated."""

    t: np.ndarray
    bits: np.ndarray


class Entropies(NamedTuple):
    """Entropies of the reverse step at each t, [T + 1], see `entropy`; not finite where there is none.

    Attributes:
      lower, upper: bounds on that of the data.
      model: that of the model.
      true: that of the data at some t; None where it cannot be enumerated.
    """

    lower: np.ndarray
    upper: np.ndarray
    model: np.ndarray
    true: _TrueEntropies | None


class LikelihoodReport(NamedTuple):
    """All in bits of the report's unit, [k] over `ais_k` where not said otherwise; written to `evaluation.json`.

    Attributes:
      ais_k: how many trajectories: powers of ten, and the largest asked for.
      ais_bits: stochastic lower bounds on the log-likelihood of held-out data, `likelihood.lower`; a larger k does not
        make the standard errors smaller, which are over examples.
      ais_gain_bits: how far above that of k = 1, whose mean is K; paired.
      ais_gap_bits: limit minus AIS as the mean of log p(x) - AIS(x) over examples, which may be unknown.
      ais_ess: effective sample sizes, means over examples.
      ais_examples: number of held-out examples, and of the model's samples.
      sandwich: of the model's own samples.
      exact_bits: mean log-probability of the same examples by enumeration of the model; None but for short
        strings of bits.
      ais_to_exact_bits: how far AIS is below that, paired; unknown as above.
      entropy_bounds_bits: of the reverse steps.
      entropy_production_bits: KL of the forward chain from the model's, limit - K, a number: the gap of K, which may be
        unknown.
    """

    ais_k: list[int]
    ais_bits: Estimate
    ais_gain_bits: Estimate
    ais_gap_bits: Estimate
    ais_ess: np.ndarray
    ais_examples: int
    sandwich: Sandwich
    exact_bits: float | None
    ais_to_exact_bits: Estimate
    entropy_bounds_bits: Entropies
    entropy_production_bits: Estimate


def _is_image(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3


def _affordable(shape: tuple[int, ...], per_example: int, most: int) -> int:
    calls = _IMAGE_CALLS if _is_image(shape) else _VECTOR_CALLS
    return max(_FEWEST, min(most, calls // per_example))


def largest_k(shape: tuple[int, ...]) -> int:
    """Trajectories an example where the user does not say."""
    return _IMAGE_K if _is_image(shape) else _VECTOR_K


def num_examples(shape: tuple[int, ...], num_timesteps: int, k: int) -> int:
    """Examples where the user does not say: what is affordable at k trajectories of T steps each."""
    return _affordable(shape, num_timesteps * k, _MOST)


def _sizes(k: int) -> list[int]:
    """1, 10, 100, ... below k, and k."""
    return [10**i for i in range(len(str(k))) if 10**i < k] + [k]


def evaluate(
    key: Array, experiment: Experiment, params: Params, source: Source, of_bound: Report, k: int, num: int
) -> LikelihoodReport:
    """AIS on held-out data, the sandwich on the model's samples, entropies of the steps.

    Args:
      key: PRNG key of the examples and of the noise.
      experiment: what was trained.
      params: its parameters.
      source: its data.
      of_bound: K of the same model, for the entropy production.
      k: trajectories an example; smaller k are groups of them.
      num: held-out examples, at least 2; at most what the source holds back is used.

    Raises:
      UserError: as `report.check_examples`.
    """
    data_key, ais_key, model_key, entropy_key = jax.random.split(key, 4)
    sizes = _sizes(k)
    x_0 = source.held_out(data_key, check_examples(source, num))
    num = len(x_0)
    chunk, in_unit = chunk_size(source.shape, _CHUNK), partial(bits_per_part, shape=source.shape)

    # One program each: what is done with the weights is many small operations, slow to compile one by one.
    @jax.jit
    def of_data(params: Params, key: Array, x_0: Array) -> tuple[Array, Array]:
        weights = likelihood.log_weights(key, experiment.model(params), x_0, k, chunk_size=chunk)
        found = (
            jnp.stack([likelihood.lower(weights, size) for size in sizes]),
            jnp.stack([likelihood.effective_sample_size(weights, size) for size in sizes]),
        )
        return mesh.gather(found)

    @jax.jit
    def of_samples(params: Params, key: Array) -> tuple[Array, Array]:
        s = likelihood.sandwich(key, experiment.model(params), num, source.shape, k, chunk_size=chunk)
        found = (
            jnp.stack([likelihood.lower(s.log_weights, size) for size in sizes]),
            jnp.stack([likelihood.upper(s.own, s.log_weights, size) for size in sizes]),
        )
        return mesh.gather(found)

    bounds, ess = of_data(params, ais_key, x_0)
    ais = in_unit(bounds)
    low, high = (in_unit(bound) for bound in of_samples(params, model_key))
    gap = None if source.log_prob is None else in_unit(jax.jit(source.log_prob)(x_0)) - ais
    model = experiment.model(params)
    exact = _exact(experiment, model, x_0)
    return LikelihoodReport(
        ais_k=sizes,
        ais_bits=Estimate.of(ais),
        ais_gain_bits=Estimate.of(ais - ais[0]),
        ais_gap_bits=Estimate.of(gap),
        ais_ess=np.asarray(ess, np.float64).mean(1),
        ais_examples=num,
        sandwich=Sandwich(*map(Estimate.of, (low, high, high - low))),
        exact_bits=None if exact is None else float(in_unit(exact).mean()),
        ais_to_exact_bits=Estimate.of(None if exact is None else in_unit(exact) - ais),
        entropy_bounds_bits=_entropies(entropy_key, experiment, params, model, source),
        entropy_production_bits=of_bound.gap_bits,
    )


def _exact(experiment: Experiment, model: Model, x_0: Array) -> Array | None:
    """log p(x_0) of short strings of bits, [N] nats."""
    (dim, *rest) = experiment.shape
    if not experiment.binary or rest or dim > _MAX_MODEL_BITS:
        return None
    log_p: Array = jax.jit(lambda: mesh.gather(likelihood.enumerate_bits(model, dim)[1]))()
    # The strings are in the order of the numbers that they are in binary.
    return log_p[x_0.astype(jnp.int32) @ (2 ** jnp.arange(dim)[::-1])]


def _entropies(key: Array, experiment: Experiment, params: Params, model: Model, source: Source) -> Entropies:
    num_timesteps, process = model.num_timesteps, model.process
    data_key, noise_key = jax.random.split(key)
    wanted = _affordable(source.shape, 10 * num_timesteps, _MOST_FOR_ENTROPY)
    x_0 = source.held_out(data_key, check_examples(source, wanted))

    @jax.jit
    def of_model(params: Params, x_0: Array) -> Array:
        return mesh.gather(entropy.model_steps(noise_key, experiment.model(params), x_0))

    bounds = jax.jit(lambda: entropy.step_bounds(process, source.shape))()
    known = None
    if source.support is not None and math.prod(source.shape) <= entropy.MAX_BITS and num_timesteps > 1:
        times = np.unique(np.linspace(2, num_timesteps, min(_MAX_TIMES, num_timesteps - 1)).astype(int))
        schedule = process.schedule  # type: ignore[attr-defined]
        before, after = (entropy.enumerated_bits(schedule, source.support, list(times - i)) for i in (1, 0))
        true = np.asarray(bounds.upper, np.float64)[times] + before - after
        known = _TrueEntropies(times, bits_per_part(true, source.shape))
    nats = (bounds.lower, bounds.upper, of_model(params, x_0))
    lower, upper, model_steps = (bits_per_part(entropies, source.shape) for entropies in nats)
    return Entropies(lower, upper, model_steps, known)


def table(result: LikelihoodReport, unit: str) -> str:
    """Format the report as a table for the screen."""
    r, last, both = result, result.ais_k[-1], result.sandwich
    rows: list[tuple[str, Cell]] = []
    for i, k in enumerate(r.ais_k):
        rows.append((f"AIS, k = {k}, stochastic lower bound", r.ais_bits.at(i)))
        if r.ais_gap_bits.mean is not None:
            rows.append(("  gap, limit - AIS (paired)", r.ais_gap_bits.at(i)))
        elif i > 0:
            rows.append(("  gain over k = 1 (paired)", r.ais_gain_bits.at(i)))
        rows.append(("  exact - AIS (paired)", r.ais_to_exact_bits.at(i)))
    rows += [
        ("exact log-likelihood, by enumeration", r.exact_bits),
        (f"effective sample size of k = {last}", r.ais_ess[-1]),
        (f"samples of the model, lower bound, k = {last}", both.lower_bits.at(-1)),
        (f"samples of the model, upper bound, k = {last}", both.upper_bits.at(-1)),
        ("  upper - lower (paired)", both.width_bits.at(-1)),
        ("entropy production, limit - K", r.entropy_production_bits),
    ]
    return aligned(f"{unit}, {r.ais_examples} held-out examples and as many samples, trajectories by AIS", rows)

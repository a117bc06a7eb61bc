"""The gap between K and the likelihood: AIS over trajectories, sandwiches, entropies of the steps; in bits."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dpm_jax import entropy, likelihood
from dpm_jax.data import Source
from dpm_jax.evaluation.report import Report, check_examples
from dpm_jax.model import Model
from dpm_jax.numerics.shapes import chunk_size
from dpm_jax.training import mesh
from dpm_jax.training.experiment import Experiment, Params
from dpm_jax.units import bits, num_parts

__all__ = ["LikelihoodReport", "evaluate", "largest_k", "num_examples", "table"]

# Calls of the network that one estimate may cost where the user does not say: some 10 s on two CPU cores, images more.
_VECTOR_CALLS, _IMAGE_CALLS = 10_000_000, 8_000
_VECTOR_K, _IMAGE_K = 1000, 10
# Examples at least and at most, where the user does not say.
_FEWEST, _MOST, _MOST_FOR_ENTROPY = 4, 100, 4096
# Trajectories at a time, of small examples.
_CHUNK = 8192
# Bits of which the model's own probabilities are enumerated; and times at which true entropies are.
_MAX_MODEL_BITS, _MAX_TIMES = 10, 32


class LikelihoodReport(NamedTuple):
    """All in bits of the report's unit, as lists over `ais_k` where not said otherwise; keys of `evaluation.json`.

    Attributes:
      ais_k: how many trajectories: powers of ten, and the largest asked for.
      ais_bits: stochastic lower bounds on the log-likelihood of held-out data, `likelihood.lower`.
      ais_stderr_bits: their standard errors over examples, which k do not make smaller.
      ais_gain_bits: how far above that of k = 1, whose mean is K; paired.
      ais_gain_stderr_bits: standard errors of these.
      ais_gap_bits: limit minus AIS as the mean of log p(x) - AIS(x) over examples; None if unknown.
      ais_gap_stderr_bits: standard errors of these.
      ais_ess: effective sample sizes, means over examples.
      ais_examples: number of held-out examples, and of the model's samples.
      sandwich: of the model's own samples, lists over ais_k: `lower_bits`, `upper_bits`, `width_bits`, each
        with `_stderr` before the unit; that of the width is paired.
      exact_bits: mean log-probability of the same examples by enumeration of the model; None but for short
        strings of bits.
      ais_to_exact_bits: how far AIS is below that, paired, list; None as above.
      ais_to_exact_stderr_bits: standard errors of these.
      entropy_bounds_bits: `lower`, `upper`, `model`: [T + 1] entropies of the reverse step at each t, see
        `entropy`, None where there is no finite one; and `true`, {`t`, `bits`}, where it can be enumerated, else None.
      entropy_production_bits: KL of the forward chain from the model's, limit - K, a number: the gap of K;
        None if unknown.
      entropy_production_stderr_bits: its standard error.
    """

    ais_k: list[int]
    ais_bits: list[float]
    ais_stderr_bits: list[float]
    ais_gain_bits: list[float]
    ais_gain_stderr_bits: list[float]
    ais_gap_bits: list[float] | None
    ais_gap_stderr_bits: list[float] | None
    ais_ess: list[float]
    ais_examples: int
    sandwich: dict[str, list[float]]
    exact_bits: float | None
    ais_to_exact_bits: list[float] | None
    ais_to_exact_stderr_bits: list[float] | None
    entropy_bounds_bits: dict[str, Any]
    entropy_production_bits: float | None
    entropy_production_stderr_bits: float | None


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
    sizes, parts = _sizes(k), num_parts(source.shape)
    x_0 = source.held_out(data_key, check_examples(source, num))
    num = len(x_0)
    chunk = chunk_size(source.shape, _CHUNK)

    def in_unit(nats: Array | np.ndarray) -> np.ndarray:
        return np.asarray(bits(np.asarray(nats, np.float64)) / parts)

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
    to_exact = None if exact is None else in_unit(exact) - ais
    return LikelihoodReport(
        ais_k=sizes,
        ais_bits=_means(ais),
        ais_stderr_bits=_stderrs(ais),
        ais_gain_bits=_means(ais - ais[0]),
        ais_gain_stderr_bits=_stderrs(ais - ais[0]),
        ais_gap_bits=None if gap is None else _means(gap),
        ais_gap_stderr_bits=None if gap is None else _stderrs(gap),
        ais_ess=_means(np.asarray(ess, np.float64)),
        ais_examples=num,
        sandwich={
            **{"lower_bits": _means(low), "lower_stderr_bits": _stderrs(low)},
            **{"upper_bits": _means(high), "upper_stderr_bits": _stderrs(high)},
            **{"width_bits": _means(high - low), "width_stderr_bits": _stderrs(high - low)},
        },
        exact_bits=None if exact is None else float(in_unit(exact).mean()),
        ais_to_exact_bits=None if to_exact is None else _means(to_exact),
        ais_to_exact_stderr_bits=None if to_exact is None else _stderrs(to_exact),
        entropy_bounds_bits=_entropies(entropy_key, experiment, params, model, source, parts),
        entropy_production_bits=of_bound.gap_bits,
        entropy_production_stderr_bits=of_bound.gap_stderr_bits,
    )


def _exact(experiment: Experiment, model: Model, x_0: Array) -> Array | None:
    """log p(x_0) of short strings of bits, [N] nats."""
    (dim, *rest) = experiment.shape
    if not experiment.binary or rest or dim > _MAX_MODEL_BITS:
        return None
    log_p: Array = jax.jit(lambda: mesh.gather(likelihood.enumerate_bits(model, dim)[1]))()
    # The strings are in the order of the numbers that they are in binary.
    return log_p[x_0.astype(jnp.int32) @ (2 ** jnp.arange(dim)[::-1])]


def _entropies(
    key: Array, experiment: Experiment, params: Params, model: Model, source: Source, parts: int
) -> dict[str, Any]:
    """Entropies of the reverse steps, their bounds, and the truth where it can be had; for JSON."""
    num_timesteps, process = model.num_timesteps, model.process
    data_key, noise_key = jax.random.split(key)
    wanted = _affordable(source.shape, 10 * num_timesteps, _MOST_FOR_ENTROPY)
    x_0 = source.held_out(data_key, check_examples(source, wanted))

    @jax.jit
    def of_model(params: Params, x_0: Array) -> Array:
        return mesh.gather(entropy.model_steps(noise_key, experiment.model(params), x_0))

    bounds = jax.jit(lambda: entropy.step_bounds(process, source.shape))()
    found = {"lower": bounds.lower, "upper": bounds.upper, "model": of_model(params, x_0)}
    result: dict[str, Any] = {name: _finite(bits(np.asarray(v, np.float64)) / parts) for name, v in found.items()}
    result["true"] = None
    if source.support is not None and math.prod(source.shape) <= entropy.MAX_BITS and num_timesteps > 1:
        times = np.unique(np.linspace(2, num_timesteps, min(_MAX_TIMES, num_timesteps - 1)).astype(int))
        schedule = process.schedule  # type: ignore[attr-defined]
        before, after = (entropy.enumerated_bits(schedule, source.support, list(times - i)) for i in (1, 0))
        true = np.asarray(bounds.upper, np.float64)[times] + before - after
        result["true"] = {"t": times.tolist(), "bits": _finite(bits(true) / parts)}
    return result


def _finite(values: np.ndarray) -> list[float | None]:
    """For JSON, which has no infinity."""
    return [float(value) if math.isfinite(value) else None for value in values]


def _means(values: np.ndarray) -> list[float]:
    return [float(value) for value in values.mean(1)]


def _stderrs(values: np.ndarray) -> list[float]:
    return [float(value) for value in values.std(1, ddof=1) / np.sqrt(values.shape[1])]


def table(result: LikelihoodReport, unit: str) -> str:
    """Format the report as a table for the screen."""
    r, last = result, result.ais_k[-1]
    rows: list[tuple[str, float | None, float | None]] = []
    for i, k in enumerate(r.ais_k):
        rows.append((f"AIS, k = {k}, stochastic lower bound", r.ais_bits[i], r.ais_stderr_bits[i]))
        if r.ais_gap_bits is not None and r.ais_gap_stderr_bits is not None:
            rows.append(("  gap, limit - AIS (paired)", r.ais_gap_bits[i], r.ais_gap_stderr_bits[i]))
        elif i > 0:
            rows.append(("  gain over k = 1 (paired)", r.ais_gain_bits[i], r.ais_gain_stderr_bits[i]))
        if r.ais_to_exact_bits is not None and r.ais_to_exact_stderr_bits is not None:
            rows.append(("  exact - AIS (paired)", r.ais_to_exact_bits[i], r.ais_to_exact_stderr_bits[i]))
    both = r.sandwich
    rows += [
        ("exact log-likelihood, by enumeration", r.exact_bits, None),
        (f"effective sample size of k = {last}", r.ais_ess[-1], None),
        (f"samples of the model, lower bound, k = {last}", both["lower_bits"][-1], both["lower_stderr_bits"][-1]),
        (f"samples of the model, upper bound, k = {last}", both["upper_bits"][-1], both["upper_stderr_bits"][-1]),
        ("  upper - lower (paired)", both["width_bits"][-1], both["width_stderr_bits"][-1]),
        ("entropy production, limit - K", r.entropy_production_bits, r.entropy_production_stderr_bits),
    ]
    lines = [f"{unit}, {r.ais_examples} held-out examples and as many samples, trajectories by AIS"]
    for name, value, stderr in rows:
        if value is not None:
            lines.append(f"  {name:<48} {value:>10.4f}" + ("" if stderr is None else f" +- {stderr:.4f}"))
    return "\n".join(lines)

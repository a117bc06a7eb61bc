"""K of a trained model on held-out data, beside everything it can be compared with, in bits."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dpm_jax import bound, optimal, truncated_normal
from dpm_jax.data import Source, Standardization
from dpm_jax.distributions import Normal
from dpm_jax.errors import UserError
from dpm_jax.evaluation.estimate import Estimate
from dpm_jax.evaluation.table import aligned
from dpm_jax.model import Model, forward_edge
from dpm_jax.numerics.shapes import chunk_size
from dpm_jax.training import mesh
from dpm_jax.training.experiment import Experiment, Params
from dpm_jax.training.progress import bar
from dpm_jax.units import bits_per_dimension, bits_per_part, discrete_bits_per_dimension

__all__ = ["Report", "check_examples", "evaluate", "in_chunks", "table"]

# Examples at a time, of small ones.
_CHUNK = 4096
# Of all examples together, in float32.
_MAX_BYTES = 2**32


class Report(NamedTuple):
    """All in bits, of `unit` (a pixel of an image, else an example); written to `evaluation.json`.

    Attributes:
      bound_bits: K, the lower bound on the log-likelihood; its standard error is over examples and noise.
      null_bits: L_null, the log-likelihood of the null model on the same examples.
      gain_bits: K - L_null, paired.
      limit_bits: E log p(x) of the data's own law, which no model exceeds; None if unknown.
      gap_bits: limit minus K, as the mean of log p(x) - K(x) over the same examples, so that
        it is sharper than the difference of the two means; unknown where the limit is.
      ceiling_bits: K of the best model with reverse steps of this form at this T and schedule, on the
        same examples and noise, where it can be enumerated; None elsewhere.
      edge_bits, kl_bits, prior_kl_bits: the terms of K = edge - kl - prior_kl.
      entropy_first_bits, entropy_last_bits, entropy_prior_bits: H_q(X_1 | X_0),
        H_q(X_T | X_0), H_p(X_T), the edge entropies of equation 14.
      discrete_bits_per_dim: upper bound on the code length of 8-bit pixels, or of integers, that K stands for, see
        `units`; less is better; unknown unless all values are integers.
      discretized_bits_per_dim: the same from K of the pixels themselves, without dequantisation, with
        p(x_0 | x_1) given by the mass in each pixel's bin (`Normal.bin_log_prob`); unknown for other data.
      truncated_bits_per_dim: the same without a decoder, by a truncated normal, see `truncated_normal`; unknown if not
        asked for.
      edge: treatment of p(x_0 | x_1), "forward", "decoder" or "grid".
      unit: of all of these.
      num_examples, num_timesteps, step: what was evaluated.
      per_step_kl_bits: [T + 1] mean KL term at each t; 0 at 0 and 1.
    """

    bound_bits: Estimate
    null_bits: float
    gain_bits: Estimate
    limit_bits: float | None
    gap_bits: Estimate
    ceiling_bits: float | None
    edge_bits: float
    kl_bits: float
    prior_kl_bits: float
    entropy_first_bits: float
    entropy_last_bits: float
    entropy_prior_bits: float
    discrete_bits_per_dim: Estimate
    discretized_bits_per_dim: Estimate
    truncated_bits_per_dim: Estimate
    edge: str
    unit: str
    num_examples: int
    num_timesteps: int
    step: int
    per_step_kl_bits: np.ndarray


def in_chunks(
    key: Array,
    experiment: Experiment,
    model: Callable[[Params], Model],
    params: Params,
    x_0: Array,
    edge: bound.Edge,
) -> tuple[bound.Bound, np.ndarray]:
    """`bound.evaluate` in equal chunks, so that memory does not grow with the number of examples.

    Args:
      key: PRNG key of the noise.
      experiment: what was trained.
      model: parameters -> `Model`; the experiment's, or another that is to be compared on the same noise.
      params: its parameters.
      x_0: [N, ...] data.
      edge: the treatment of p(x_0 | x_1), see `bound`.

    Returns:
      `Bound` of all of them; [T + 1] mean KL term at each t, nats.
    """
    num_times = experiment.evaluate.num_times or None

    @jax.jit
    def chunk_bound(params: Params, key: Array, chunk: Array) -> bound.Bound:
        return mesh.gather(bound.evaluate(key, model(params), experiment.data(chunk), edge=edge, num_times=num_times))

    parts = _of_chunks(partial(chunk_bound, params), key, x_0)
    whole = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    per_step = np.stack([np.asarray(part.kl_per_step, np.float64) for part in parts])
    return whole, np.average(per_step, axis=0, weights=[len(part.k) for part in parts])


def _of_chunks(function: Callable[[Array, Array], Any], key: Array, x_0: Array) -> list[Any]:
    """Return function(key, chunk) of each of the chunks that x_0 is cut into."""
    fewest = -(-len(x_0) // chunk_size(x_0.shape[1:], _CHUNK))
    # Chunks of one size are one program; where none divides evenly, there are two.
    num_chunks = next((n for n in range(fewest, 2 * fewest + 1) if len(x_0) % n == 0), fewest)
    parts = []
    with bar("evaluating", len(x_0), "example") as shown:
        for i, chunk in enumerate(np.array_split(np.asarray(x_0), num_chunks)):
            part = function(jax.random.fold_in(key, i), jnp.asarray(chunk))
            parts.append(jax.block_until_ready(part))
            shown.update(len(chunk))
    return parts


def _discretized(
    key: Array, experiment: Experiment, params: Params, standardization: Standardization, x_0: Array
) -> np.ndarray:
    """Bits a dimension of each example's pixels, without dequantisation, [N]."""
    levels = standardization.levels or 0
    lowest, highest = (float(standardization.centres(np.asarray(v))) for v in (0, levels - 1))
    width = (highest - lowest) / (levels - 1)
    edge: Any = partial(Normal.bin_log_prob, width=width, lowest=lowest, highest=highest)
    centres = jnp.asarray(standardization.centres(standardization.invert(x_0)))
    result, _ = in_chunks(key, experiment, experiment.model, params, centres, edge)
    return -bits_per_dimension(np.asarray(result.k, np.float64), experiment.shape)  # type: ignore[no-any-return]


def _truncated(
    key: Array, experiment: Experiment, params: Params, standardization: Standardization, x_0: Array
) -> np.ndarray:
    """Bits a dimension of each example's pixels, dequantised by a truncated normal, [N]."""
    grid, is_white = standardization.grid, experiment.config.noise == "white"
    if grid is None or not is_white:
        raise UserError("truncated_normal: is for 8-bit pixels with white noise, which these are not")
    # Outside of the compiled function, for it must be known there, where its ends may be learned.
    process = experiment.model(params).process

    @jax.jit
    def of_chunk(params: Params, key: Array, chunk: Array) -> Array:
        model = dataclasses.replace(experiment.model(params), process=process)
        # Every t is visited: the first steps of this chain lose much more than others.
        return mesh.gather(truncated_normal.evaluate(key, model, grid.nearest(chunk), grid))

    try:
        nats = np.concatenate(_of_chunks(partial(of_chunk, params), key, x_0))
    except ValueError as error:
        raise UserError(f"truncated_normal: {error}") from error
    return discrete_bits_per_dimension(nats, standardization.scale, experiment.shape)  # type: ignore[no-any-return]


def _ceiling(key: Array, experiment: Experiment, process: Any, source: Source, x_0: Array) -> float | None:
    """K in nats of the best model with factorised steps, for bits with few values; same noise as the model's K."""
    if source.support is None:
        return None
    values = source.support
    model = optimal.finite_bits(process, values, jnp.full(len(values), -np.log(len(values))))
    if experiment.edge == "forward":
        model = forward_edge(model)
    best, _ = in_chunks(key, experiment, lambda _: model, {}, x_0, experiment.edge)
    return float(np.mean(np.asarray(best.k, np.float64)))


def check_examples(source: Source, num_examples: int) -> int:
    """How many held-out examples will be evaluated, of the number asked for.

    Raises:
      UserError: if fewer than 2 are held out, or they are too many to hold.
    """
    if source.num_held_out is not None:
        num_examples = min(num_examples, source.num_held_out)
    if num_examples < 2:
        raise UserError(f"num_examples: a standard error needs at least 2 held-out examples, got {num_examples}")
    if (size := 4 * num_examples * math.prod(source.shape)) > _MAX_BYTES:
        raise UserError(f"num_examples: {num_examples} of shape {source.shape} are {size / 1e9:.1f} GB; give fewer")
    return num_examples


def evaluate(
    key: Array,
    experiment: Experiment,
    params: Params,
    source: Source,
    num_examples: int,
    step: int,
    *,
    truncated: bool = False,
) -> Report:
    """Evaluate K on `num_examples` held-out examples, every t visited once for each.

    Args:
      key: PRNG key of the examples and of the noise.
      experiment: what was trained.
      params: its parameters.
      source: its data.
      num_examples: at least 2; at most what the source holds back is used.
      step: optimizer steps taken, for the record.
      truncated: whether bits/dim by a truncated normal are wanted, too.

    Raises:
      UserError: as `check_examples`, or if K of an example is not finite, or the model goes with no truncated normal.
    """
    data_key, noise_key = jax.random.split(key)
    x_0 = source.held_out(data_key, check_examples(source, num_examples))
    result, per_step = in_chunks(noise_key, experiment, experiment.model, params, x_0, experiment.edge)
    if lost := int(np.count_nonzero(~np.isfinite(result.k))):
        raise UserError(
            f"K of {lost} of {len(x_0)} held-out examples is not finite, so there is none to report; the training has "
            "diverged, or these examples are far from what it saw"
        )
    in_unit = partial(bits_per_part, shape=source.shape)
    process: Any = experiment.model(params).process
    null, k = in_unit(process.null_log_prob(x_0)), in_unit(result.k)
    gap = None
    if source.log_prob is not None:
        gap = in_unit(jax.jit(source.log_prob)(x_0)) - k
    discrete = discretized = dequantised = None
    is_white = experiment.config.noise == "white"  # other noise has no law of each pixel by itself
    if source.standardization.step.all():
        k_nats = np.asarray(result.k, np.float64)
        discrete = discrete_bits_per_dimension(k_nats, source.standardization.scale, source.shape)
    if source.standardization.levels is not None and experiment.config.edge != "grid" and is_white:
        discretized = _discretized(noise_key, experiment, params, source.standardization, x_0)
    if truncated:
        dequantised = _truncated(noise_key, experiment, params, source.standardization, x_0)
    ceiling = _ceiling(noise_key, experiment, process, source, x_0)

    def mean_bits(values: Array) -> float:
        return float(in_unit(values).mean())

    return Report(
        bound_bits=Estimate.of(k),
        null_bits=float(null.mean()),
        gain_bits=Estimate.of(k - null),
        limit_bits=None if source.mean_log_prob is None else float(in_unit(source.mean_log_prob())),
        gap_bits=Estimate.of(gap),
        discrete_bits_per_dim=Estimate.of(discrete),
        discretized_bits_per_dim=Estimate.of(discretized),
        truncated_bits_per_dim=Estimate.of(dequantised),
        ceiling_bits=None if ceiling is None else float(in_unit(ceiling)),
        edge_bits=mean_bits(result.edge),
        kl_bits=mean_bits(result.kl),
        prior_kl_bits=mean_bits(result.prior_kl),
        entropy_first_bits=mean_bits(result.entropy_first),
        entropy_last_bits=mean_bits(result.entropy_last),
        entropy_prior_bits=mean_bits(result.entropy_prior),
        edge=experiment.config.edge,
        unit=source.unit,
        num_examples=len(x_0),
        num_timesteps=experiment.num_timesteps,
        step=step,
        per_step_kl_bits=in_unit(per_step),
    )


def table(report: Report) -> str:
    """Format the report as a table for the screen."""
    r = report
    edge = {"forward": "= forward kernel", "decoder": "learned", "grid": "learned, of levels"}[r.edge]
    return aligned(
        f"{r.unit}, {r.num_examples} held-out examples, T = {r.num_timesteps}, step {r.step}",
        [
            ("limit, E log2 p(x)", r.limit_bits),
            (f"ceiling at T = {r.num_timesteps}, best factorised step", r.ceiling_bits),
            ("K, lower bound on the log-likelihood", r.bound_bits),
            ("gap, limit - K (paired)", r.gap_bits),
            ("L_null", r.null_bits),
            ("gain, K - L_null", r.gain_bits),
            (f"  edge, p(x_0|x_1) {edge}", r.edge_bits),
            (f"  - sum of KL over t = 2..{r.num_timesteps}", -r.kl_bits),
            ("  - KL of q(x_T|x_0) from the prior", -r.prior_kl_bits),
            ("  H_q(X_1|X_0)", r.entropy_first_bits),
            ("  H_q(X_T|X_0)", r.entropy_last_bits),
            ("  H_p(X_T)", r.entropy_prior_bits),
            (
                f"bits/dim of the pixels{'' if r.edge == 'grid' else ' or integers, dequantised'}",
                r.discrete_bits_per_dim,
            ),
            ("bits/dim of the pixels, discretised decoder", r.discretized_bits_per_dim),
            ("bits/dim of the pixels, truncated normal", r.truncated_bits_per_dim),
        ],
    )

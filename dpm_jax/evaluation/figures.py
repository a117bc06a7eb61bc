"""The figures of a trained model: what is computed for them, handed to `plots`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.figure import Figure

from dpm_jax import sampling
from dpm_jax.data import Source
from dpm_jax.evaluation import plots
from dpm_jax.evaluation.images import nearest_training
from dpm_jax.evaluation.likelihood_report import LikelihoodReport
from dpm_jax.evaluation.report import Report
from dpm_jax.evaluation.respacing_report import RespacingReport
from dpm_jax.evaluation.samples import draw
from dpm_jax.training import mesh
from dpm_jax.training.experiment import Experiment, Params

__all__ = ["of_bound", "of_images", "of_likelihood", "of_model", "of_respacing", "of_samples"]


def of_samples(samples: np.ndarray, binary: bool) -> Figure:
    """Draw a picture of samples [n, d] or [n, H, W, C], in the data's own units."""
    if samples.ndim == 4:
        return plots.images(samples[:144])
    return plots.bits(samples) if binary else plots.points(samples)


def of_bound(experiment: Experiment, params: Params, report: Report) -> Figure:
    """Per-step KL terms of a report."""
    process: Any = experiment.model(params).process
    log_nsr = np.asarray(process.schedule.log_nsr)
    return plots.per_step_kl(report.per_step_kl_bits, log_nsr, report.unit)


def of_likelihood(result: LikelihoodReport, unit: str) -> Figure:
    """AIS, sandwich and entropies of a report."""
    marks: dict[str, tuple[float, float]] = {}
    if result.entropy_production_bits is not None and result.entropy_production_stderr_bits is not None:
        marks["limit"] = (result.entropy_production_bits, result.entropy_production_stderr_bits)
    if result.ais_to_exact_bits is not None and result.ais_to_exact_stderr_bits is not None:
        marks["exact"] = (result.ais_to_exact_bits[0], result.ais_to_exact_stderr_bits[0])
    lift = plots.Lift(result.ais_k, result.ais_gain_bits, result.ais_gain_stderr_bits, marks)
    found = result.entropy_bounds_bits
    lower, upper, model = (np.asarray(found[name][2:], np.float64) for name in ("lower", "upper", "model"))
    true = found["true"] or {"t": [], "bits": []}
    steps = plots.Steps(lower, upper, model, np.asarray(true["t"], np.int64), np.asarray(true["bits"], np.float64))
    return plots.likelihood(lift, result.sandwich["lower_bits"], result.sandwich["upper_bits"], steps, unit)


def of_respacing(report: RespacingReport) -> Figure:
    """K of a report against the number of steps, a line a spacing."""
    full, rest = report.rows[0], report.rows[1:]
    lines = {}
    for name in dict.fromkeys(row.spacing for row in rest):
        rows = [row for row in rest if row.spacing == name]
        lines[name] = plots.Line(
            [row.num_steps for row in rows], [row.bound_bits for row in rows], [row.bound_stderr_bits for row in rows]
        )
    null = full.bound_bits - full.gain_bits
    return plots.short_chains(lines, full.num_steps, full.bound_bits, null, report.unit)


def of_model(key: Array, experiment: Experiment, params: Params, source: Source, report: Report) -> Figure:
    """Draw the paper's Figure 1 of points in the plane, its Figure 2 of bits, or samples of other data."""
    title = f"K = {report.bound_bits:.3f} ± {report.bound_stderr_bits:.3f} {report.unit} (T = {report.num_timesteps})"
    if report.limit_bits is not None:
        title += f", limit {report.limit_bits:.3f}, gap {report.gap_bits:.3f} ± {report.gap_stderr_bits:.3f}"
    if experiment.binary:
        return _bits(key, experiment, params, source, title)
    if len(experiment.shape) == 3:
        return of_images(key, experiment, params, source, title)
    if experiment.shape == (2,):
        return _plane(key, experiment, params, source, title)
    return plots.points(draw(key, experiment, params, source.standardization, 2000))


def of_images(key: Array, experiment: Experiment, params: Params, source: Source, title: str) -> Figure:
    """Draw samples beside the training images nearest to them, or beside held-out data where there are none."""
    sample_key, data_key = jax.random.split(key)
    samples = draw(sample_key, experiment, params, source.standardization, experiment.evaluate.num_samples)
    pairs = nearest_training(samples, source)
    if pairs is None:
        data = source.standardization.invert(source.held_out(data_key, len(samples)))
        return plots.image_pairs(samples, np.asarray(data), title, ("samples", "data"))
    apart = f"median distance {np.median(pairs.distance):.2f}, least {pairs.distance.min():.2f}"
    beside = f"nearest of {pairs.num_training} in training ({apart})"
    return plots.image_pairs(pairs.samples, pairs.nearest, title, ("samples", beside))


def _states(key: Array, experiment: Experiment, params: Params, num: int, times: list[int]) -> list[np.ndarray]:
    """Return the model's x_t at each of `times`, from one trajectory."""

    @jax.jit
    def draw(params: Params) -> sampling.Trajectory:
        model = experiment.model(params)
        kept = sampling.trajectory(key, model, num, experiment.shape, keep_every=_stride(model.num_timesteps))
        return mesh.gather(kept)

    kept = draw(params)
    index = {int(t): i for i, t in enumerate(kept.t)}
    return [np.asarray(kept.x[index[t]]) for t in times]


def _stride(num_timesteps: int) -> int:
    """Half of T, rounded up: the trajectory is kept at T, the middle and 0."""
    return -(-num_timesteps // 2)


def _plane(key: Array, experiment: Experiment, params: Params, source: Source, title: str) -> Figure:
    model = experiment.model(params)
    num_timesteps = model.num_timesteps
    times = sorted({0, _stride(num_timesteps), num_timesteps})
    data_key, noise_key, reverse_key = jax.random.split(key, 3)
    x_0 = source.held_out(data_key, 2000)
    forward = [
        np.asarray(model.process.marginal(x_0, jnp.full(len(x_0), t, jnp.int32)).sample(key))
        for key, t in zip(jax.random.split(noise_key, len(times)), times, strict=True)
    ]
    line = jnp.linspace(-2.7, 2.7, 19)
    position = jnp.stack(jnp.meshgrid(line, line), axis=-1).reshape(-1, 2)
    # The edge at t = 1 is not learned; the first learned step is that at t = 2.
    drift_times = [max(t, min(2, num_timesteps)) for t in times]
    to_mean = jax.jit(lambda x, t: mesh.gather(model.reverse(x, t).mean - x))
    drift = [
        plots.Drift(
            np.asarray(position),
            np.asarray(to_mean(position, jnp.full(len(position), t, jnp.int32))),
        )
        for t in drift_times
    ]
    states = _states(reverse_key, experiment, params, 2000, times)
    return plots.point_trajectories(times, forward, states, drift_times, drift, title)


def _bits(key: Array, experiment: Experiment, params: Params, source: Source, title: str) -> Figure:
    num_timesteps = experiment.model(params).num_timesteps
    times = sorted({0, _stride(num_timesteps), num_timesteps}, reverse=True)
    data_key, reverse_key = jax.random.split(key)
    states = _states(reverse_key, experiment, params, 40, times)
    return plots.bit_trajectories(times, states, np.asarray(source.held_out(data_key, 40)), title)

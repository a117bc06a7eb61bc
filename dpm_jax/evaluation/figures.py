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
from dpm_jax.evaluation import plots, report_plots
from dpm_jax.evaluation.images import nearest_training
from dpm_jax.evaluation.report import Report
from dpm_jax.evaluation.samples import draw
from dpm_jax.training import mesh
from dpm_jax.training.experiment import Experiment, Params

__all__ = ["of_bound", "of_images", "of_model", "of_samples"]


def of_samples(samples: np.ndarray, binary: bool) -> Figure:
    """Draw a picture of samples [n, d] or [n, H, W, C], in the data's own units."""
    if samples.ndim == 4:
        return plots.images(samples[:144])
    return plots.bits(samples) if binary else plots.points(samples)


def of_bound(experiment: Experiment, params: Params, report: Report) -> Figure:
    """Per-step KL terms of a report."""
    process: Any = experiment.model(params).process
    return report_plots.per_step_kl(report, np.asarray(process.schedule.log_nsr))


def of_model(key: Array, experiment: Experiment, params: Params, source: Source, report: Report) -> Figure:
    """Draw the paper's Figure 1 of points in the plane, its Figure 2 of bits, or samples of other data."""
    k, gap = report.bound_bits, report.gap_bits
    title = f"K = {k.mean:.3f} ± {k.stderr:.3f} {report.unit} (T = {report.num_timesteps})"
    if report.limit_bits is not None:
        title += f", limit {report.limit_bits:.3f}, gap {gap.mean:.3f} ± {gap.stderr:.3f}"
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

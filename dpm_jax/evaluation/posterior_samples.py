"""Draws from the posterior of a trained model given observations, in the data's own units."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dpm_jax import guidance, likelihood, sampling, smc
from dpm_jax.coloured import Coloured
from dpm_jax.data import Standardization
from dpm_jax.distributions import Bernoulli, Normal
from dpm_jax.errors import UserError
from dpm_jax.evaluation.observations import Observations
from dpm_jax.evaluation.scores import mean_of_draws
from dpm_jax.guidance import How
from dpm_jax.model import Model
from dpm_jax.numerics.shapes import chunk_size
from dpm_jax.training import mesh
from dpm_jax.training.experiment import Experiment, Params
from dpm_jax.training.progress import bar
from dpm_jax.units import bits

__all__ = ["Draws", "Plan", "arrays", "default_how", "draw", "evidence", "log_hidden", "particle_report", "sampler"]


# Standard deviation, in the model's units, of real numbers that are known, where evidence must have some.
_EXACT = 0.01


class Plan(NamedTuple):
    """How a posterior is drawn from.

    Attributes:
      how: evidence acts along the chain, see `guidance`; "default" for `default_how`.
      num_particles: of sequential Monte Carlo for each observation; 0 for the approximate chain alone.
      num_repeats: times that each stretch of the chain is gone, see `sampling.with_jumps`; 1 for the plain chain.
      jump_length: steps in a stretch.
    """

    how: How | Literal["default"] = "default"
    num_particles: int = 0
    num_repeats: int = 1
    jump_length: int = 5


class Draws(NamedTuple):
    """Draws from n posteriors, N each.

    Attributes:
      samples: [n, N, *shape] in the data's own units: float64, pixels uint8.
      log_evidence: [n] log-probability of each observation under the model, nats, in the model's
        units; None without particles.
      stderr: [n] standard error of log_evidence, nats; None without particles.
      effective_size: [n] the least effective sample size on the way; None without particles.
      doubtful: [n] bool, whether few particles dominate, so that the two above may be wrong; None without particles.
      lost: [n] the largest share of particles that lost their weight at a step; None without particles.
    """

    samples: np.ndarray
    log_evidence: np.ndarray | None = None
    stderr: np.ndarray | None = None
    effective_size: np.ndarray | None = None
    doubtful: np.ndarray | None = None
    lost: np.ndarray | None = None


def default_how(experiment: Experiment, model: Model, observations: Observations, num_particles: int) -> How:
    """Return the method with the least error in the table of docs/results.md."""
    if isinstance(model.process, Coloured):
        return "matched"
    if num_particles == 0 and observations.mask.all():
        return "renoised"
    if model.denoise is None:
        return "annealed"
    # Of bits, the weights of guided chains have heavy tails.
    bits = experiment.binary
    return "denoised" if experiment.full_covariance or (bits and num_particles) else "guided"


def evidence(experiment: Experiment, standardization: Standardization, observations: Observations) -> Any:
    """Return the observations as evidence in the model's units, a law [n, *shape]; see `guidance`."""
    mask = jnp.asarray(standardization.keep(observations.mask))
    y = jnp.asarray(standardization.centres(observations.y))
    if experiment.binary:
        noise = observations.noise
        odds = np.log((1 - noise) / noise) if noise > 0 else np.inf
        return Bernoulli(jnp.where(mask, jnp.where(y > 0.5, odds, -odds), 0.0))
    variance = np.square(observations.noise / standardization.scale)
    if standardization.spectrum is not None:
        # Noise of a spectrum has no law of each pixel by itself: a value is known as well as its step is wide.
        variance = np.maximum(variance, np.maximum((standardization.step / standardization.scale) ** 2 / 12, _EXACT**2))
    spread = jnp.broadcast_to(jnp.asarray(variance, jnp.float32), y.shape)
    return Normal(jnp.where(mask, y, 0.0), jnp.where(mask, spread, jnp.inf))


def _in_form(model: Model, r: Any) -> Any:
    """Return evidence about each coordinate in the form that the model's process takes."""
    if not isinstance(model.process, Coloured):
        return r
    seen = jnp.isfinite(r.variance)
    return guidance.Linear(lambda x: jnp.where(seen, x, 0.0), r.mean, r.variance)


def _with_known(samples: np.ndarray, standardization: Standardization, observations: Observations) -> np.ndarray:
    """Return samples [n, N, *shape] with what was observed without noise in its place."""
    if standardization.spectrum is None or observations.noise > 0:
        return samples
    known = np.where(observations.mask[:, None], observations.y[:, None], samples)
    return known.astype(samples.dtype)


def sampler(experiment: Experiment, plan: Plan) -> Callable[[Array, Params, Any], Array]:
    """Return the compiled sampler of one posterior an example: (key, parameters, evidence [B, *shape]) -> [B, *shape].

    Args:
      experiment: what was trained.
      plan: how; not by default, and without particles.
    """

    @jax.jit
    def run(key: Array, params: Params, r: Any) -> Array:
        model = experiment.model(params)
        conditioned = guidance.condition(model, _in_form(model, r), plan.how)  # type: ignore[arg-type]
        size, shape = r.batch_shape[0], r.event_shape
        if plan.num_repeats == 1:
            return mesh.gather(sampling.sample(key, conditioned, size, shape))
        jump_length = min(plan.jump_length, conditioned.num_timesteps)
        x = sampling.with_jumps(key, conditioned, size, shape, jump_length=jump_length, num_repeats=plan.num_repeats)
        return mesh.gather(x)

    return run  # type: ignore[no-any-return]


def draw(
    key: Array,
    experiment: Experiment,
    params: Params,
    standardization: Standardization,
    observations: Observations,
    num: int,
    plan: Plan,
    compiled: Callable[[Array, Params, Any], Array] | None = None,
) -> Draws:
    """`num` draws from the posterior of each observation.

    Args:
      key: PRNG key.
      experiment: what was trained.
      params: its parameters.
      standardization: of its data.
      observations: n of them.
      num: N.
      plan: how.
      compiled: `sampler` of the same experiment and plan, to be used again; None for a new one.

    Raises:
      UserError: if the plan does not fit the evidence, or draws or weights are not finite.
    """
    model, num_particles = experiment.model(params), plan.num_particles
    how: How = plan.how if plan.how != "default" else default_how(experiment, model, observations, num_particles)
    r = evidence(experiment, standardization, observations)
    try:
        guidance.check(model, _in_form(model, r), how, weights=num_particles > 0)
    except ValueError as error:
        raise UserError(f"--{error}") from None
    if num_particles:
        found = _with_particles(key, experiment, params, standardization, r, num, how, num_particles)
        return found._replace(samples=_with_known(found.samples, standardization, observations))
    shape = r.event_shape
    total = num * len(observations.y)
    # Chunks of one size are one program: the last is filled up with what is then thrown away.
    size = -(-total // -(-total // chunk_size(shape, 10_000)))

    run = compiled or sampler(experiment, plan._replace(how=how))
    parts = []
    with bar("sampling", total, "sample") as shown:
        for first in range(0, total, size):
            rows = jnp.minimum((first + jnp.arange(size)) // num, len(observations.y) - 1)
            chunk = jax.tree.map(lambda value, rows=rows: value[rows], r)
            parts.append(np.asarray(run(jax.random.fold_in(key, first), params, chunk)))
            shown.update(min(size, total - first))
    x = np.concatenate(parts)[:total].reshape(-1, num, *shape)
    if not np.isfinite(x).all():
        raise UserError(f"--how: chains of '{how}' diverged with these observations; use another, or --num_particles")
    return Draws(_with_known(standardization.invert(x), standardization, observations))


def _with_particles(
    key: Array,
    experiment: Experiment,
    params: Params,
    standardization: Standardization,
    r: Any,
    num: int,
    how: How,
    num_particles: int,
) -> Draws:
    """One observation after another, so that memory is that of one set of particles."""

    @jax.jit
    def run(key: Array, params: Params, r: Any) -> tuple[Array, ...]:
        particles_key, draw_key = jax.random.split(key)
        model = experiment.model(params)
        found = smc.sample(particles_key, model, _in_form(model, r), how, num_particles, shape=r.event_shape)
        drawn = smc.draw(draw_key, found, num)
        lost = found.lost.max() / num_particles
        weights = (found.log_evidence[0], found.stderr[0], found.effective_size.min(), found.doubtful[0], lost)
        return mesh.gather((drawn[0], *weights))

    parts = [
        run(jax.random.fold_in(key, i), params, jax.tree.map(lambda value, i=i: value[i : i + 1], r))
        for i in range(r.batch_shape[0])
    ]
    draws = Draws(*(np.stack([np.asarray(values) for values in column]) for column in zip(*parts, strict=True)))
    log_evidence: Any = draws.log_evidence
    if not (np.isfinite(log_evidence).all() and np.isfinite(draws.samples).all()):
        lost = int(np.argmin(np.isfinite(log_evidence)))
        raise UserError(
            f"--num_particles: all {num_particles} lost observation {lost} with '{how}'; use more, or another --how"
        )
    return draws._replace(samples=standardization.invert(draws.samples))


def particle_report(draws: Draws, num_particles: int) -> list[str]:
    """Return lines about the weights of draws by particles, warnings last; none without particles."""
    if draws.log_evidence is None:
        return []
    assert draws.stderr is not None and draws.effective_size is not None  # noqa: PT018
    assert draws.doubtful is not None and draws.lost is not None  # noqa: PT018
    num = len(draws.log_evidence)
    mean, error = bits(draws.log_evidence).mean(), bits(np.sqrt((draws.stderr**2).sum()) / num)
    lines = [
        f"log2 p(observed), mean: {mean:.3f} +- {error:.3f} bits an observation, the model's units",
        f"least effective sample size: {draws.effective_size.min():.1f} of {num_particles} particles",
    ]
    if doubtful := int(draws.doubtful.sum()):
        lines.append(
            f"warning: few particles dominate the weights of {doubtful} of {num} observations: log2 p(observed) may be "
            "too low, its error and the effective size too good; use more particles, or another --how"
        )
    if draws.lost.max() > 0:
        lines.append(
            f"warning: up to {draws.lost.max():.1%} of the particles lost their weight at a step: it was no number, or "
            "a difference of numbers above 1e7, which float32 cannot hold"
        )
    return lines


def arrays(observations: Observations, draws: Draws) -> dict[str, np.ndarray]:
    """Return the arrays of samples.npz, by key.

    Returns:
      samples: the draws [n, N, *shape]; mean: of the N, [n, *shape] float64; observed: y, 0 where hidden;
      mask; and truth, where known.
    """
    known = {} if observations.truth is None else {"truth": observations.truth}
    mean = mean_of_draws(draws.samples)
    return {"samples": draws.samples, "mean": mean, "observed": observations.y, "mask": observations.mask, **known}


def log_hidden(
    key: Array,
    experiment: Experiment,
    params: Params,
    standardization: Standardization,
    observations: Observations,
    draws: Draws,
    num_trajectories: int,
) -> likelihood.Conditional | None:
    """Return log p(hidden part of the truth | observed part) under the model, [n] nats, in its units, with its error.

    None where the truth or the evidence is not known, or nothing is hidden, or p(x_0 | x_1) is a law of levels, which
    the evidence is not.
    """
    if (
        callable(experiment.edge)
        or observations.truth is None
        or draws.log_evidence is None
        or draws.stderr is None
        or observations.mask.all()
    ):
        return None
    x_0 = standardization.centres(observations.truth)
    chunk = chunk_size(x_0.shape[1:], 10_000)

    @jax.jit
    def hidden(key: Array, params: Params, x_0: Array, log_evidence: Array, stderr: Array) -> likelihood.Conditional:
        weights = likelihood.log_weights(key, experiment.model(params), x_0, num_trajectories, chunk_size=chunk)
        return mesh.gather(likelihood.conditional(weights, log_evidence, stderr))

    found: likelihood.Conditional = hidden(key, params, x_0, jnp.asarray(draws.log_evidence), jnp.asarray(draws.stderr))
    return found

"""Conditioning a model on evidence: a posterior is a function from a model to a model.

The model p(x_0) times a bounded positive r(x_0), normalised, is p~(x_0) (section 2.5). Its reverse
chain is known up to one function (appendix C):

    p~(x_{t-1} | x_t) = p(x_{t-1} | x_t) h_{t-1}(x_{t-1}) / h_t(x_t),    h_t(x_t) = E[r(x_0) | x_t],

with h_0 = r. Nobody has h_t; what follows are guesses of it, and what a step makes of them.

Evidence r is one of

    a law          about each coordinate by itself: `Normal(y, s^2)`, y = x_0 + s noise, with s^2 = 0 where x_0
                   is known and infinity where it was not seen; `Bernoulli(logits)`. See `distributions`.
    a function     x_0 [B, ...] -> log r(x_0) [B], differentiable.
    `Linear`       y = A x_0 + s noise.

`how` it acts along the chain is one of (E = a law, f = a function, L = linear):

    "constant"  E f   r itself at every t: the paper's. Exact for r = 1. Far too strong where x_t is noise.
    "annealed"  E f   r seen through the noise of x_t, as if all x_0 were equally likely (`diffuse`): exact if
                      p(x_0) is flat; a function is taken to the power alpha_bar_t.
    "renoised"  E     what was observed replaces x_t, re-noised to the level of t (Lugmayr et al. 2022, with
                      `sampling.with_jumps`, their resampling). Exact, but for the grid of noise levels,
                      where every coordinate was observed with the same noise: denoising. The
                      other coordinates learn of the observed ones only at the next step.
    "denoised"  E     the denoiser's law of x_0 given x_t is multiplied with r, coordinate by
                      coordinate. Exact for independent bits, and for normal data with independent coordinates
                      (with `FullNormal`, of few dimensions, with dependent ones, too).
    "guided"    E f   the step is tilted by the gradient, through the network, of log r at the denoised estimate
                      (Chung et al. 2023, DPS), here averaged over the law of x_0 given x_t: a function at
                      `points` of it, evidence in closed form, the law taken to be no narrower than for
                      data of unit variance (Song et al. 2023).
    "matched"   E L   the mean of x_0 given x_t moves by the Kalman gain of its whole covariance, which by
                      Tweedie's second formula is the network's own Jacobian, applied by a few products with
                      it (Boys et al. 2023; Rozet et al. 2024). Its mean is exact for normal data, its variance in
                      the limit of fine steps. Gaussian process only, nu_T finite; noise of a spectrum takes `Linear`.

"denoised", "guided" and "matched" need the model's denoiser; "annealed" and "renoised" the process' optional methods
`diffuse` and `renoise`. All but "denoised" make models that are given by their reverse steps alone: respace first,
then condition. None but these special cases is exact. `guide` gives each of them as a proposal with weights, from which
`smc` makes a sampler that is exact as the number of particles grows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from dpm_jax import coloured
from dpm_jax.distributions import Distribution, FullNormal, Normal, where
from dpm_jax.distributions.base import is_law
from dpm_jax.model import Model
from dpm_jax.numerics import loops, refuse
from dpm_jax.numerics.shapes import at, num_arguments, sum_event
from dpm_jax.numerics.small_matrices import diagonal
from dpm_jax.processes import Gaussian

__all__ = ["Evidence", "Guide", "How", "Linear", "Step", "check", "condition", "guide", "log_likelihood", "multiply"]


class Linear(NamedTuple):
    """Evidence y = A x_0 + s noise.

    Attributes:
      operator: A, x [B, ...] -> [B, ...], linear, each example by itself.
      y: [B, ...] what was observed.
      variance: s^2 > 0, broadcasting against y; infinity where nothing was observed.
    """

    operator: Callable[[Array], Array]
    y: Array
    variance: Array | float


Evidence = Distribution | Callable[[Array], Array] | Linear
How = Literal["constant", "annealed", "renoised", "denoised", "guided", "matched"]


class Step(NamedTuple):
    """One step of a guided chain.

    Attributes:
      model: p(x_{t-1} | x_t).
      posterior: the approximate p~(x_{t-1} | x_t).
      log_twist: [B] log of the guess of h_t(x_t), up to a constant.
    """

    model: Distribution
    posterior: Distribution
    log_twist: Array


# Of the linear solver; each costs a gradient of the network.
_ITERATIONS = 4

# What float32 leaves of a vector after a few differences, as a share of it.
_ROUNDING = 1e-5

# Of the law of x_0 given x_t, that a function is averaged over; and how many numbers of them are held at a time.
_POINTS, _AT_ONCE = 512, 2**22

# (x_t [B, ...], t int32 [B]) -> Step.
Guide = Callable[[Array, Array], Step]


def multiply(model: Model, log_r: Callable[..., Array] | Distribution) -> Model:
    """Return the model with steps p(x_{t-1} | x_t) r(x_{t-1}) / Z, as the paper has it (section 2.5, Table App.1).

    A law is multiplied in closed form. A function is linearised: a Gaussian's mean moves by variance
    times gradient of log r at the mean, a bit's odds by the ratio of r at 1 and 0.

    Args:
      model: any.
      log_r: x [B, ...] -> [B]; or (x_{t-1}, t - 1) -> [B], for an r that changes along the chain; or a
        law, see above.

    Returns:
      `Model` of the same process: sampled, bounded and plotted as any other.

    Raises:
      ValueError: for `Linear` evidence; `condition` takes it.
    """
    if isinstance(log_r, Linear):
        raise ValueError("log_r: Linear evidence is not multiplied step by step; give it to condition, 'matched'")
    takes_time = callable(log_r) and num_arguments(log_r) > 1

    def steps(x_t: Array, t: Array) -> Any:
        r = (lambda x: log_r(x, t - 1)) if takes_time else log_r  # type: ignore[operator]
        return _times(model.reverse(x_t, t), r)

    return Model.from_steps(model.process, steps)


def _times(p: Any, r: Any) -> Any:
    """p(x) r(x) / Z."""
    return p.tilt(r) if callable(r) else p.product(r)[0]


def log_likelihood(r: Evidence, x: Array) -> Array:
    """Return log r(x) of x [B, ...] in nats, [B]; of a law, its variance must not be 0."""
    if isinstance(r, Linear):
        seen = Normal(r.y, jnp.asarray(r.variance, jnp.float32))
        return Normal.point(r.operator(x)).product(seen)[1]
    if callable(r):
        return r(x)
    log_z: Array = type(r).point(x).product(r)[1]  # type: ignore[attr-defined]
    return log_z


def condition(model: Model, r: Evidence, how: How, *, iterations: int = _ITERATIONS, points: int = _POINTS) -> Model:
    """Return the model multiplied with r(x_0), by one of the ways of the module's docstring.

    Args:
      model: a process and a denoiser.
      r: evidence about x_0; its arrays have the batch of x_t, or a batch of one.
      how: the way that r acts along the chain.
      iterations: of the linear solver of "matched", at least 1; each costs a gradient of the network.
      points: of the law of x_0 given x_t at which "guided" averages a function, at least 1; each costs an
        evaluation of r and its gradient. Too few make weights whose tails `smc` cannot correct.

    Returns:
      `Model` of the same process.

    Raises:
      ValueError: if `how` does not take this kind of evidence or of model, or a number is less than 1.
    """
    check(model, r, how)
    if how == "renoised":
        process: Any = model.process
        r = jax.tree.map(loops.whole, r)
        return Model.from_steps(process, lambda x_t, t: process.renoise(r, model.reverse(x_t, t), t - 1))
    if how == "denoised":
        evidence: Any = jax.tree.map(loops.whole, r)
        return Model(model.process, lambda x_t, t: model.denoised(x_t, t).product(evidence)[0])
    step = guide(model, r, how, iterations=iterations, points=points)
    return Model.from_steps(model.process, lambda x_t, t: step(x_t, t).posterior)


def guide(model: Model, r: Evidence, how: How, *, iterations: int = _ITERATIONS, points: int = _POINTS) -> Guide:
    """Return the chain of `condition`, with the weights that `smc` needs to correct it.

    Args: as `condition`.

    Returns:
      (x_t, t) -> `Step`. At t = 1 a law is multiplied in closed form, whatever `how`. "constant" has no
      weights where coordinates are known: every step but the last would be a point, too.

    Raises:
      ValueError: if `how` does not take this kind of evidence or of model, or makes no weights ("renoised"), or a
        number is less than 1.
    """
    check(model, r, how, weights=True)
    refuse.at_least_one(iterations=iterations, points=points)
    if is_law(r):
        r = jax.tree.map(loops.whole, r)
    if how == "matched":
        inner = _matched_in_colour(model, r, iterations) if _is_coloured(model) else _matched(model, r, iterations)
    elif how == "guided":
        inner = _guided(model, r, points)
    elif how == "denoised":
        inner = _denoised(model, r)
    else:
        inner = _tempered(model, r, how == "annealed")
    if isinstance(r, Linear):
        return inner

    def with_edge(x_t: Array, t: Array) -> Step:
        step = inner(x_t, t)
        return step._replace(posterior=where(t == 1, _times(step.model, r), step.posterior))

    return with_edge


def check(model: Model, r: Evidence, how: How, weights: bool = False) -> None:
    """Check that `condition`, or with `weights` `guide`, takes this model and evidence this way.

    Raises:
      ValueError: if not, saying why.
    """
    kind = "law" if is_law(r) else "Linear" if isinstance(r, Linear) else "function"
    takes = {
        "constant": ("law", "function"),
        "annealed": ("law", "function"),
        "renoised": ("law",),
        "denoised": ("law",),
        "guided": ("law", "function"),
        "matched": ("law", "Linear"),
    }
    refuse.one_of("how", how, takes)
    if kind not in takes[how]:
        raise ValueError(f"how: '{how}' takes evidence that is a {' or a '.join(takes[how])}, got a {kind}")
    if kind == "function" and not callable(r):
        raise ValueError(f"r: evidence is a law, a function or Linear, got a {type(r).__name__}")
    if weights and how == "renoised":
        raise ValueError("how: 'renoised' replaces the model's steps, and has no weights; use another")
    process = type(model.process).__name__
    if how == "matched" and not (isinstance(model.process, Gaussian) or _is_coloured(model)):
        raise ValueError(f"how: 'matched' is for the Gaussian process, got a {process}; use 'guided'")
    if how in ("denoised", "guided", "matched") and model.denoise is None:
        raise ValueError(f"how: '{how}' needs the model's denoiser, and it is given by its reverse steps alone")
    asked = {"renoised": "renoise", "annealed": "diffuse"}
    if kind == "law" and how in asked and not hasattr(model.process, asked[how]):
        raise ValueError(f"how: '{how}' needs a method `{asked[how]}` of the process, which {process} has not")
    if how == "matched" and _is_coloured(model) and kind == "law":
        raise ValueError("r: evidence for 'matched', where the noise has a spectrum, is Linear, got a law")
    if kind == "law":
        evidence: Any = r
        law = type(jax.eval_shape(lambda: model.process.prior((*evidence.batch_shape, *evidence.event_shape))))
        if type(r) is not law:
            raise ValueError(f"r: evidence for this process is a {law.__name__}, got a {type(r).__name__}")


def _tempered(model: Model, r: Any, annealed: bool) -> Guide:
    """r at every t, as it is or diffused."""
    process: Any = model.process

    def at_time(x: Array, t: Array) -> Any:
        if not annealed:
            return r
        if callable(r):
            return lambda x: process.schedule.alpha_bar[t] * r(x)
        return process.diffuse(_spread(r, x.shape), t)

    def step(x_t: Array, t: Array) -> Step:
        p = model.reverse(x_t, t)
        return Step(p, _times(p, at_time(x_t, t - 1)), log_likelihood(at_time(x_t, t), x_t))

    return step


def _spread(r: Any, shape: tuple[int, ...]) -> Any:
    """Evidence with a batch of one, for all of a batch."""
    return jax.tree.map(lambda value: jnp.broadcast_to(value, (shape[0], *value.shape[1:])), r)


def _denoised(model: Model, r: Any) -> Guide:
    """r on the law of x_0 given x_t, coordinate by coordinate."""

    def step(x_t: Array, t: Array) -> Step:
        return _in_closed_form(model, model.laws(x_t, t), r, x_t, t)

    return step


def _in_closed_form(model: Model, laws: tuple[Any, Any], r: Distribution, x_t: Array, t: Array) -> Step:
    """Return the step whose law of x_0 given x_t is the model's times r."""
    start, step = laws
    after, log_z = start.product(r)
    return Step(step, model.process.posterior(after, x_t, t), log_z)


def _guided(model: Model, r: Any, points: int) -> Guide:
    """Return the gradient of log r at the denoised estimate."""

    def log_twist(x_t: Array, t: Array) -> tuple[Array, tuple[Any, Array]]:
        start, p = model.laws(x_t, t)
        twist = _widened(model, start, x_t, t).product(r)[1] if is_law(r) else _log_average(start, r, points)
        return twist.sum(), (p, twist)

    def step(x_t: Array, t: Array) -> Step:
        (_, (p, twist)), slope = jax.value_and_grad(log_twist, has_aux=True)(x_t, t)
        return Step(p, p.tilt(slope), twist)

    return step


def _widened(model: Model, start: Any, x_t: Array, t: Array) -> Any:
    """Return a law of x_0 given x_t made no narrower than for independent data of unit variance.

    Evidence about coordinates that vary together would be counted once for each of them, and steps would run away.
    """
    if not isinstance(start, Normal | FullNormal):
        return start
    variance = at(model.process.schedule.sigma2, t, x_t)  # type: ignore[attr-defined]
    if isinstance(start, Normal):
        return Normal(start.mean, jnp.maximum(start.variance, variance), event_ndim=start.event_ndim)
    excess = diagonal(jnp.broadcast_to(variance, x_t.shape))
    return FullNormal.of_covariance(start.mean, start.covariance + excess)


def _log_average(start: Any, log_r: Callable[[Array], Array], points: int) -> Array:
    """log of the mean of r over the law of x_0 given x_t, [B]: at points of normals; of others, r at their mean."""
    mean = start.mean
    if not isinstance(start, Normal | FullNormal):
        return log_r(mean)
    # The same points for everyone, and with each its opposite: a smooth function of x_t.
    noise = jax.random.normal(jax.random.key(0), (-(-points // 2), *mean.shape[1:]), jnp.float32)
    noise = jnp.concatenate([noise, -noise])[:points]

    def value(z: Array) -> Array:
        return log_r(start.place(jnp.broadcast_to(z, mean.shape)))

    # A power of two, so that it divides most numbers of points; what the gradient needs is computed again.
    size = 1 << max(_AT_ONCE // mean.size, 1).bit_length() - 1
    values = jax.vmap(value)(noise) if points <= size else jax.lax.map(jax.checkpoint(value), noise, batch_size=size)
    average: Array = jax.nn.logsumexp(values, axis=0) - math.log(points)
    return average


def _matched(model: Model, r: Any, iterations: int) -> Guide:
    """Return the Kalman step of the mean of x_0 given x_t, with the network's Jacobian for a covariance."""
    process: Any = model.process
    schedule = process.schedule

    def step(x_t: Array, t: Array) -> Step:
        def denoise(x_t: Array) -> tuple[Array, tuple[Any, Any]]:
            laws = model.laws(x_t, t)
            return laws[0].mean, laws

        # The Jacobian is multiplied with vectors that vary as the evidence does.
        x_t = loops.spread_as(r.y if isinstance(r, Linear) else r.mean, x_t)
        mean, pull, laws = jax.vjp(denoise, x_t, has_aux=True)
        start, p = laws
        if isinstance(start, FullNormal) and not isinstance(r, Linear):
            # The covariance is known entry by entry: nothing is left to ask the Jacobian.
            return _in_closed_form(model, laws, r, x_t, t)
        # Cov[x_0 | x_t] = sigma2_t / sqrt(alpha_bar_t) dE[x_0 | x_t] / dx_t, symmetric where the model is exact.
        scale = at(schedule.sigma2 / jnp.sqrt(schedule.alpha_bar), t, x_t)
        operator, transpose, difference, noise = _observation(r, mean)

        def covariance(u: Array) -> Array:
            return operator(scale * pull(transpose(u))[0]) + noise * u

        u = _minimal_residual(covariance, difference, iterations)
        after = mean + scale * pull(transpose(u))[0]
        if is_law(r):
            observed, twist = start.product(r)
            start_after: Any = Normal(after, observed.variance, event_ndim=start.event_ndim)
        else:
            # The log-determinant beside this quadratic form does not depend on x_t, where the model is exact.
            start_after = _moved(start, after)
            twist = -0.5 * jnp.maximum(sum_event(difference * u), 0.0)
        return Step(p, process.posterior(start_after, x_t, t), twist)

    return step


def _is_coloured(model: Model) -> bool:
    return isinstance(model.process, coloured.Coloured)


def _matched_in_colour(model: Model, r: Any, iterations: int) -> Guide:
    """Return the Kalman step of z, the images whose noise is white, in the units of x."""
    found = model.process.spectrum  # type: ignore[attr-defined]
    of_z = r._replace(operator=lambda z: r.operator(found.colour(z)))
    inner = _matched(coloured.in_white(model), of_z, iterations)

    def step(x_t: Array, t: Array) -> Step:
        white: Any = inner(found.whiten(x_t), t)
        prior, posterior = (coloured.ColouredNormal(law, found) for law in (white.model, white.posterior))
        return Step(prior, posterior, white.log_twist)

    return step


def _moved(p: Normal | FullNormal, mean: Array) -> Normal | FullNormal:
    """Return the law with another mean."""
    if isinstance(p, FullNormal):
        return FullNormal(mean, p.scale_tril)
    return Normal(mean, p.variance, event_ndim=p.event_ndim)


def _observation(
    r: Normal | Linear, mean: Array
) -> tuple[Callable[[Array], Array], Callable[[Array], Array], Array, Array]:
    """Return A, its transpose, y - A mean, and the variance of the noise."""
    if isinstance(r, Linear):
        transposed = jax.linear_transpose(r.operator, mean)
        noise = jnp.broadcast_to(jnp.asarray(r.variance, jnp.float32), r.y.shape)
        seen = jnp.isfinite(noise)

        def operator(x: Array) -> Array:
            return jnp.where(seen, r.operator(x), 0.0)

        def transpose(u: Array) -> Array:
            back: Array = transposed(jnp.where(seen, u, 0.0))[0]
            return back

        return operator, transpose, jnp.where(seen, r.y - r.operator(mean), 0.0), jnp.where(seen, noise, 1.0)
    seen = jnp.broadcast_to(jnp.isfinite(r.variance), mean.shape)

    def select(x: Array) -> Array:
        return jnp.where(seen, x, 0.0)

    return select, select, select(r.mean - mean), jnp.where(seen, r.variance, 1.0)


def _minimal_residual(matvec: Callable[[Array], Array], b: Array, iterations: int) -> Array:
    """Return u of the Krylov space of b with the least |matvec(u) - b|, each example [B, ...] by itself.

    By generalised conjugate residuals (Eisenstat et al. 1983): images of the directions are kept orthonormal, so that
    no system is left to solve, nothing is squared, and the residual never grows. Conjugate gradients need a symmetric
    positive definite matrix, which a trained network's Jacobian only nearly is, and may diverge.
    """

    def dot(x: Array, y: Array) -> Array:
        return (x * y).sum(axis=-1, keepdims=True)

    residual = b.reshape(b.shape[0], -1)
    whole, solution = dot(residual, residual), jnp.zeros_like(residual)
    directions: list[tuple[Array, Array]] = []
    for _ in range(iterations):
        # A residual that is rounding, and an image that the others hold already, are no direction.
        new = dot(residual, residual) > _ROUNDING**2 * whole
        direction = residual
        image = matvec(direction.reshape(b.shape)).reshape(direction.shape)
        size = dot(image, image)
        for known, known_image in 2 * directions:
            share = dot(known_image, image)
            direction, image = direction - share * known, image - share * known_image
        rest = dot(image, image)
        new = new & (rest > _ROUNDING**2 * size)
        scale = jnp.where(new, jax.lax.rsqrt(jnp.where(new, rest, 1.0)), 0.0)
        direction, image = scale * direction, scale * image
        directions.append((direction, image))
        share = dot(image, residual)
        solution, residual = solution + share * direction, residual - share * image
    return solution.reshape(b.shape)

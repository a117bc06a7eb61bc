"""Multiplying a model with evidence: a posterior is a function from a reverse function to a reverse function.

The model p(x_0) times a bounded positive r(x_0), normalised, is p~(x_0) (section 2.5). Its reverse
chain is known up to one function (appendix C):

    p~(x_{t-1} | x_t) = p(x_{t-1} | x_t) h_{t-1}(x_{t-1}) / h_t(x_t),    h_t(x_t) = E[r(x_0) | x_t],

with h_0 = r. Nobody has h_t; what follows are guesses of it, and what a step makes of them.

Evidence r is one of

  a law          about each coordinate by itself: `Normal(y, s^2)`, y = x_0 + s noise, with s^2 = 0 where x_0
                 is known and infinity where it was not seen; `Bernoulli(logits)`. See `normal`, `bernoulli`.
  a function     x_0 [B, ...] -> log r(x_0) [B], differentiable.
  `Linear`       y = A x_0 + s noise.

`how` it acts along the chain is one of (E = a law, f = a function, L = linear):

  "constant"  E f   r itself at every t: the paper's. Exact for r = 1. Far too strong where x_t is noise.
  "annealed"  E f   r seen through the noise of x_t, as if all x_0 were alike beforehand (`diffused`): exact if
                    p(x_0) is flat; a function is taken to the power alpha_bar_t.
  "renoised"  E     what was observed replaces x_t, re-noised to the level of t (Lugmayr et al. 2022, with
                    `sampling.with_jumps`, their resampling). Exact, but for the grid of noise levels,
                    where every coordinate was observed with the same noise: denoising. What was
                    observed in part is not heard by the rest until the next step.
  "denoised"  E     the law of x_0 given x_t behind the model's step is multiplied with r, coordinate by
                    coordinate. Exact for independent bits, and for normal data with independent coordinates
                    (with `FullNormal`, of few dimensions, with dependent ones, too).
  "guided"    E f   the step is tilted by the gradient, through the network, of log r at the denoised estimate
                    (Chung et al. 2023, DPS), here averaged over the law of x_0 given x_t: a function at
                    `points` of it, evidence in closed form, the law taken to be no narrower than for
                    data of unit variance (Song et al. 2023).
  "matched"   E L   the mean of x_0 given x_t moves by the Kalman gain of its whole covariance, which by
                    Tweedie's second formula is the network's own Jacobian, applied by a few products with
                    it (Boys et al. 2023; Rozet et al. 2024). Its mean is exact for normal data, its variance in
                    the limit of fine steps. Gaussian kernel only, nu_T finite.

None but these special cases is exact. `guide` gives each of them as a proposal with weights, from which
`particles` makes a sampler that is exact as the number of particles grows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from dpm_jax import loops
from dpm_jax.normal import FullNormal, Normal
from dpm_jax.schedules import Schedule
from dpm_jax.shapes import at, sum_event
from dpm_jax.small_matrices import cholesky, gram
from dpm_jax.types import Distribution, Kernel, Reverse, num_arguments, verbs

__all__ = ["Evidence", "Guide", "How", "Linear", "Step", "check", "condition", "guide", "log_likelihood", "multiply"]


class Linear(NamedTuple):
    """Evidence y = A x_0 + s noise.

    Attributes:
      operator: A, x [B, ...] -> [B, ...], linear, each example by itself.
      y: [B, ...] what was observed.
      variance: s^2 > 0, broadcasting against y.
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


def _is_law(r: Evidence) -> bool:
    return not callable(r) and not isinstance(r, Linear)


def multiply(reverse: Reverse, log_r: Callable[..., Array] | Distribution) -> Reverse:
    """p(x_{t-1} | x_t) r(x_{t-1}) / Z at every step, as the paper has it (section 2.5, appendix C, Table App.1).

    A law is multiplied in closed form. A function is linearised: a Gaussian's mean moves by variance
    times gradient of log r at the mean, a bit's odds by the ratio of r at 1 and 0.

    Args:
      reverse: (x_t, t) -> distribution.
      log_r: x [B, ...] -> [B]; or (x_{t-1}, t - 1) -> [B], for an r that changes along the chain; or a
        law, see above.

    Returns:
      (x_t, t) -> distribution: sampled, bounded and plotted as any other.

    Raises:
      ValueError: for `Linear` evidence; `condition` takes it.
    """
    if isinstance(log_r, Linear):
        raise ValueError("log_r: Linear evidence is not multiplied step by step; give it to condition, 'matched'")
    takes_time = callable(log_r) and num_arguments(log_r) > 1

    def posterior(x_t: Array, t: Array) -> Distribution:
        p = reverse(x_t, t)
        law = verbs(p)
        if not callable(log_r):
            return law.product(p, log_r)
        return law.tilted(p, law.slope(p, (lambda x: log_r(x, t - 1)) if takes_time else log_r))

    return posterior


def log_likelihood(kernel: Kernel, r: Evidence, x: Array) -> Array:
    """log r(x) of [B, ...], [B] nats; of a law, its variance must not be 0."""
    if isinstance(r, Linear):
        seen = jnp.broadcast_to(jnp.asarray(r.variance, jnp.float32), r.y.shape)
        return kernel.log_overlap(kernel.point(r.operator(x)), Normal(r.y, seen))
    return r(x) if callable(r) else kernel.log_overlap(kernel.point(x), r)


def condition(
    kernel: Kernel,
    schedule: Schedule,
    reverse: Reverse,
    r: Evidence,
    how: How,
    *,
    iterations: int = _ITERATIONS,
    points: int = _POINTS,
) -> Reverse:
    """Return the reverse function of the model multiplied with r(x_0), by one of the ways of the module's docstring.

    Args:
      kernel: `gaussian` or `binomial`.
      schedule: of T steps.
      reverse: (x_t, t) -> distribution, the model.
      r: evidence about x_0; its arrays have the batch of x_t, or a batch of one.
      how: the way that r acts along the chain.
      iterations: of the linear solver of "matched", at least 1; each costs a gradient of the network.
      points: of the law of x_0 given x_t at which "guided" averages a function, at least 1; each costs an
        evaluation of r and its gradient. Too few make weights whose tails `particles` cannot correct.

    Returns:
      (x_t, t) -> distribution.

    Raises:
      ValueError: if `how` does not take this kind of evidence, or a number is less than 1.
    """
    check(kernel, r, how)
    if how == "renoised":
        r = jax.tree.map(loops.whole, r)

        def posterior(x_t: Array, t: Array) -> Distribution:
            return kernel.renoised(schedule, r, reverse(x_t, t), t - 1)

        return posterior
    step = guide(kernel, schedule, reverse, r, how, iterations=iterations, points=points)
    return lambda x_t, t: step(x_t, t).posterior


def guide(
    kernel: Kernel,
    schedule: Schedule,
    reverse: Reverse,
    r: Evidence,
    how: How,
    *,
    iterations: int = _ITERATIONS,
    points: int = _POINTS,
) -> Guide:
    """Return the chain of `condition`, with the weights that `particles` needs to correct it.

    Args: as `condition`.

    Returns:
      (x_t, t) -> `Step`. At t = 1 a law is multiplied in closed form, whatever `how`. "constant" has no
      weights where coordinates are known: every step but the last would be a point, too.

    Raises:
      ValueError: if `how` does not take this kind of evidence, or makes no weights ("renoised"), or a number is
        less than 1.
    """
    check(kernel, r, how, weights=True)
    for name, value in (("iterations", iterations), ("points", points)):
        if value < 1:
            raise ValueError(f"{name}: must be at least 1, got {value}")
    if _is_law(r):
        r = jax.tree.map(loops.whole, r)
    if how == "matched":
        inner = _matched(kernel, schedule, reverse, r, iterations)
    elif how == "guided":
        inner = _guided(kernel, schedule, reverse, r, points)
    elif how == "denoised":
        inner = _denoised(kernel, schedule, reverse, r)
    else:
        inner = _tempered(kernel, schedule, reverse, r, how == "annealed")
    if isinstance(r, Linear):
        return inner

    def with_edge(x_t: Array, t: Array) -> Step:
        step = inner(x_t, t)
        at_edge = multiply(lambda *_: step.model, r)(x_t, t)
        return step._replace(posterior=kernel.where(t == 1, at_edge, step.posterior))

    return with_edge


def check(kernel: Kernel, r: Evidence, how: How, weights: bool = False) -> None:
    """See that `condition`, or with `weights` `guide`, takes this evidence this way.

    Raises:
      ValueError: if not, saying why.
    """
    kind = "law" if _is_law(r) else "Linear" if isinstance(r, Linear) else "function"
    takes = {
        "constant": ("law", "function"),
        "annealed": ("law", "function"),
        "renoised": ("law",),
        "denoised": ("law",),
        "guided": ("law", "function"),
        "matched": ("law", "Linear"),
    }
    if how not in takes:
        raise ValueError(f"how: must be one of {', '.join(takes)}, got {how!r}")
    if kind not in takes[how]:
        raise ValueError(f"how: '{how}' takes evidence that is a {' or a '.join(takes[how])}, got a {kind}")
    if weights and how == "renoised":
        raise ValueError("how: 'renoised' replaces the model's steps, and has no weights; use another")
    prior = kernel.prior(jnp.zeros((1, 1)))
    if how == "matched" and not isinstance(prior, Normal):
        raise ValueError("how: 'matched' is for the Gaussian kernel; condition bits with 'guided'")
    if kind == "law" and verbs(r) is not verbs(prior):
        raise ValueError(f"r: evidence for this kernel is a {type(prior).__name__}, got a {type(r).__name__}")


def _tempered(kernel: Kernel, schedule: Schedule, reverse: Reverse, r: Evidence, annealed: bool) -> Guide:
    """r at every t, as it is or diffused."""

    def at_time(x: Array, t: Array) -> Distribution | Callable[[Array], Array]:
        if not annealed:
            return r
        if callable(r):
            return lambda x: schedule.alpha_bar[t] * r(x)
        return kernel.diffused(schedule, jax.tree.map(lambda value: jnp.broadcast_to(value, x.shape), r), t)

    def step(x_t: Array, t: Array) -> Step:
        model = reverse(x_t, t)
        posterior = multiply(lambda *_: model, at_time(x_t, t - 1))(x_t, t)
        return Step(model, posterior, log_likelihood(kernel, at_time(x_t, t), x_t))

    return step


def _denoised(kernel: Kernel, schedule: Schedule, reverse: Reverse, r: Distribution) -> Guide:
    """r on the law of x_0 given x_t, coordinate by coordinate."""

    def step(x_t: Array, t: Array) -> Step:
        model = reverse(x_t, t)
        return _in_closed_form(kernel, schedule, model, kernel.start(schedule, model, x_t, t), r, x_t, t)

    return step


def _in_closed_form(
    kernel: Kernel, schedule: Schedule, model: Distribution, start: Distribution, r: Distribution, x_t: Array, t: Array
) -> Step:
    """The step whose law of x_0 given x_t is the model's, `start`, times r."""
    posterior = kernel.step(schedule, kernel.product(start, r), x_t, t)
    return Step(model, posterior, kernel.log_overlap(start, r))


def _guided(kernel: Kernel, schedule: Schedule, reverse: Reverse, r: Any, points: int) -> Guide:
    """The gradient of log r at the denoised estimate."""

    def log_twist(x_t: Array, t: Array) -> tuple[Array, tuple[Distribution, Array]]:
        model = reverse(x_t, t)
        start = kernel.start(schedule, model, x_t, t)
        if _is_law(r):
            twist = kernel.log_overlap(_widened(start, at(schedule.sigma2, t, x_t)), r)
        else:
            twist = _log_average(kernel, start, r, points)
        return twist.sum(), (model, twist)

    def step(x_t: Array, t: Array) -> Step:
        (_, (model, twist)), slope = jax.value_and_grad(log_twist, has_aux=True)(x_t, t)
        return Step(model, kernel.tilted(model, slope), twist)

    return step


def _widened(start: Distribution, variance: Array) -> Distribution:
    """A law of x_0 given x_t made no narrower than for independent data of unit variance.

    Evidence about coordinates that vary together would be counted once for each of them, and steps would run away.
    """
    if isinstance(start, Normal):
        return start._replace(variance=jnp.maximum(start.variance, variance))
    if isinstance(start, FullNormal):
        covariance = (
            gram(start.scale_tril) + variance[..., None] * jnp.eye(start.mean.shape[-1], dtype=jnp.float32)[None]
        )
        return start._replace(scale_tril=cholesky(covariance))
    return start


def _log_average(kernel: Kernel, start: Distribution, log_r: Callable[[Array], Array], points: int) -> Array:
    """log of the mean of r over the law of x_0 given x_t, [B]: at points of it; of bits, at their rates."""
    mean = kernel.mean(start)
    if not isinstance(start, Normal | FullNormal):
        return log_r(mean)
    # The same points for everyone, and with each its opposite: a smooth function of x_t.
    noise = kernel.noise(jax.random.key(0), (-(-points // 2), *mean.shape[1:]))
    noise = jnp.concatenate([noise, -noise])[:points]

    def value(z: Array) -> Array:
        return log_r(kernel.place(start, jnp.broadcast_to(z, mean.shape)))

    # A power of two, so that it divides most numbers of points; what the gradient needs is computed again.
    size = 1 << max(_AT_ONCE // mean.size, 1).bit_length() - 1
    values = jax.vmap(value)(noise) if points <= size else jax.lax.map(jax.checkpoint(value), noise, batch_size=size)
    average: Array = jax.nn.logsumexp(values, axis=0) - math.log(points)
    return average


def _matched(kernel: Kernel, schedule: Schedule, reverse: Reverse, r: Any, iterations: int) -> Guide:
    """The Kalman step of the mean of x_0 given x_t, with the network's Jacobian for a covariance."""

    def step(x_t: Array, t: Array) -> Step:
        def denoise(x_t: Array) -> tuple[Array, tuple[Distribution, Distribution]]:
            model = reverse(x_t, t)
            start = kernel.start(schedule, model, x_t, t)
            return start.mean, (model, start)

        # The Jacobian is multiplied with vectors that vary as the evidence does.
        x_t = loops.spread_as(r.y if isinstance(r, Linear) else r.mean, x_t)
        mean, pull, (model, start) = jax.vjp(denoise, x_t, has_aux=True)
        if isinstance(start, FullNormal) and not isinstance(r, Linear):
            # The covariance is known entry by entry: nothing to be had from the Jacobian.
            return _in_closed_form(kernel, schedule, model, start, r, x_t, t)
        # Cov[x_0 | x_t] = sigma2_t / sqrt(alpha_bar_t) dE[x_0 | x_t] / dx_t, symmetric where the model is exact.
        scale = at(schedule.sigma2 / jnp.sqrt(schedule.alpha_bar), t, x_t)
        operator, transpose, difference, noise = _observation(r, mean)

        def covariance(u: Array) -> Array:
            return operator(scale * pull(transpose(u))[0]) + noise * u

        u = _minimal_residual(covariance, difference, iterations)
        after = mean + scale * pull(transpose(u))[0]
        if _is_law(r):
            observed = kernel.product(start, r)
            start_after, twist = Normal(after, observed.variance), kernel.log_overlap(start, r)
        else:
            # The log-determinant beside this quadratic form does not depend on x_t, where the model is exact.
            start_after, twist = start._replace(location=after), -0.5 * jnp.maximum(sum_event(difference * u), 0.0)
        return Step(model, kernel.step(schedule, start_after, x_t, t), twist)

    return step


def _observation(
    r: Normal | Linear, mean: Array
) -> tuple[Callable[[Array], Array], Callable[[Array], Array], Array, Array]:
    """A, its transpose, y - A mean, and the variance of the noise."""
    if isinstance(r, Linear):
        transposed = jax.linear_transpose(r.operator, mean)
        noise = jnp.broadcast_to(jnp.asarray(r.variance, jnp.float32), r.y.shape)
        return r.operator, lambda u: transposed(u)[0], r.y - r.operator(mean), noise
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

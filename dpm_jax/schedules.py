"""Schedules: how fast the forward chain destroys structure.

The forward chain of the paper (equation 2, Table App.1) is set by its diffusion
rates beta_1..beta_T. The part of x_0 that survives at time t is measured by

    alpha_bar_t = prod_{s<=t} (1 - beta_s),

and everything that the kernels need follows from the noise-to-signal ratio

    nu_t = (1 - alpha_bar_t) / alpha_bar_t:

    alpha_bar_t     = 1 / (1 + nu_t)
    1 - alpha_bar_t = nu_t / (1 + nu_t)
    beta_t          = (nu_t - nu_{t-1}) / (1 + nu_t).

None of these cancels, where `1 - cumprod(1 - beta)` in float32 loses a small
beta_1 altogether. So log nu is what a schedule is made from, together with its
increments, which float32 could not recover from log nu itself when T is large.

The functions here do their sums in float64 on the host, once, and hand over
float32 arrays; only `learned` and `with_ends` are traced, because they are differentiated.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

__all__ = [
    "Schedule",
    "bump_basis",
    "cosine",
    "erase",
    "from_alpha_bar",
    "from_beta",
    "from_log_nsr",
    "geometric",
    "learned",
    "linear",
    "sigmoid",
    "with_ends",
]


class Schedule(NamedTuple):
    """A forward chain of T steps, as float32 arrays of length T + 1.

    Index t of each array is time t; index 0 is the data, before any noise. So
    `alpha_bar[t - 1]` is right at t = 1 without a special case.

    Attributes:
      log_nsr: log nu_t, nu_t = (1 - alpha_bar_t) / alpha_bar_t. -inf at t = 0;
        +inf at T where the schedule erases everything.
      log_nsr_step: log nu_t - log nu_{t-1}, > 0. +inf at t = 1; 0 at index 0.
      alpha_bar: prod_{s <= t} (1 - beta_s); 1 at t = 0.
      sigma2: 1 - alpha_bar_t, without cancellation; 0 at t = 0.
      beta: the diffusion rate of step t, in (0, 1]; 0 at index 0.
    """

    log_nsr: Array
    log_nsr_step: Array
    alpha_bar: Array
    sigma2: Array
    beta: Array

    @property
    def num_timesteps(self) -> int:
        """T, the number of steps of the chain."""
        return self.log_nsr.shape[-1] - 1


def _assemble(log_nsr: Any, log_nsr_step: Any, xp: Any) -> Schedule:
    """Schedule from log nu_1..T and its T - 1 increments; `xp` is numpy or jax.numpy."""
    log_nsr = xp.concatenate([xp.asarray([-math.inf]), log_nsr])
    log_nsr_step = xp.concatenate([xp.asarray([0.0, math.inf]), log_nsr_step])
    sigma2 = 1 / (1 + xp.exp(-log_nsr))
    schedule = Schedule(
        log_nsr=log_nsr,
        log_nsr_step=log_nsr_step,
        alpha_bar=1 / (1 + xp.exp(log_nsr)),
        sigma2=sigma2,
        beta=sigma2 * -xp.expm1(-log_nsr_step),
    )
    return Schedule(*(jnp.asarray(a, jnp.float32) for a in schedule))


def _known(name: str, values: Any) -> np.ndarray:
    """Return numbers of a schedule in float64; refuse those that are traced, which sums on the host cannot take."""
    if isinstance(values, jax.core.Tracer):
        raise ValueError(
            f"schedule: {name} is traced by jit or grad, and schedules are computed before, in float64; make the "
            "schedule outside, or differentiate schedules.learned"
        )
    return np.asarray(values, np.float64)


def from_log_nsr(log_nsr: np.ndarray) -> Schedule:
    """Schedule from log nu_1..log nu_T, the log noise-to-signal ratios.

    Args:
      log_nsr: [T] strictly increasing; the last may be +inf (nothing survives).

    Raises:
      ValueError: if T < 1, or the ratios do not increase (some beta_t would lie
        outside (0, 1]), or one is NaN.
    """
    log_nsr = _known("log_nsr", log_nsr)
    if log_nsr.ndim != 1 or log_nsr.size < 1:
        raise ValueError(f"num_timesteps: a schedule needs T >= 1, got log_nsr of shape {log_nsr.shape}")
    if not (np.isfinite(log_nsr[:-1]).all() and log_nsr[-1] > -math.inf):
        raise ValueError("schedule: log_nsr must be finite; only the last may be +inf")
    steps = np.diff(log_nsr)
    if not (steps > 0).all():
        t = 2 + int(np.argmin(steps))
        raise ValueError(f"schedule: beta_t must lie in (0, 1), but noise does not grow from t = {t - 1} to {t}")
    with np.errstate(over="ignore"):
        return _assemble(log_nsr, steps, np)


def from_alpha_bar(alpha_bar: np.ndarray, sigma2: np.ndarray | None = None) -> Schedule:
    """Schedule from alpha_bar_1..alpha_bar_T.

    Args:
      alpha_bar: [T] decreasing, in [0, 1); only the last may be 0.
      sigma2: [T] 1 - alpha_bar, where the caller has it without cancellation.

    Raises:
      ValueError: as `from_log_nsr`.
    """
    alpha_bar = _known("alpha_bar", alpha_bar)
    sigma2 = 1 - alpha_bar if sigma2 is None else _known("sigma2", sigma2)
    if not ((sigma2 > 0) & (alpha_bar >= 0)).all():
        raise ValueError("schedule: beta_t must lie in (0, 1) at every t, but alpha_bar leaves [0, 1)")
    with np.errstate(divide="ignore"):
        return from_log_nsr(np.log(sigma2) - np.log(alpha_bar))


def from_beta(beta: np.ndarray) -> Schedule:
    """Schedule from the diffusion rates beta_1..beta_T themselves (equation 2).

    Args:
      beta: [T] in (0, 1); the last may be 1.

    Raises:
      ValueError: if T < 1 or a rate lies outside (0, 1), naming the first such t.
    """
    beta = _known("beta", beta)
    if beta.ndim != 1 or beta.size < 1:
        raise ValueError(f"num_timesteps: a schedule needs T >= 1, got beta of shape {beta.shape}")
    ok = (beta > 0) & (beta < 1)
    ok[-1] = 0 < beta[-1] <= 1
    if not ok.all():
        t = int(np.argmin(ok))
        raise ValueError(f"schedule: beta_t must lie in (0, 1), but beta_{t + 1} = {beta[t]:g}")
    with np.errstate(divide="ignore"):
        log_alpha_bar = np.cumsum(np.log1p(-beta))
    # 1 - alpha_bar from the logarithm: expm1 keeps what a product would round away.
    return from_alpha_bar(np.exp(log_alpha_bar), -np.expm1(log_alpha_bar))


def _check_timesteps(num_timesteps: int) -> None:
    if num_timesteps < 1:
        raise ValueError(f"num_timesteps: T must be at least 1, got {num_timesteps}")


def _check_rate(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"schedule: {name} must lie in (0, 1), got {value:g}")


def geometric(num_timesteps: int, *, beta_1: float = 1e-4, nsr_final: float = 400.0) -> Schedule:
    """Log-linear in the noise-to-signal ratio: nu_t grows by one constant factor.

    Every scale of the data gets the same number of steps, so that thin data are
    resolved as well as thick; nothing else comes near on the swiss roll.

    Args:
      num_timesteps: T. With T = 1 the one step goes straight to `nsr_final`.
      beta_1: noise of the first step; with the paper's edge treatment it acts
        like extra noise on the data, so it belongs below their own.
      nsr_final: nu_T; the prior then differs from q(x_T) by about
        d / (4 nu_T^2) + |x_0|^2 / (2 nu_T) nats at most.

    Raises:
      ValueError: if T < 1, beta_1 is outside (0, 1), or nsr_final is not above nu_1.
    """
    _check_timesteps(num_timesteps)
    _check_rate("beta_1", beta_1)
    first = math.log(beta_1) - math.log1p(-beta_1)
    if not math.log(max(nsr_final, 1e-300)) > first:
        raise ValueError(f"schedule: nsr_final must exceed beta_1 / (1 - beta_1), got {nsr_final:g}")
    log_nsr = np.linspace(math.log(nsr_final), first, num_timesteps)[::-1]
    return from_log_nsr(log_nsr)


def erase(num_timesteps: int, *, beta_1: float | None = None, alpha_bar_final: float = 0.0) -> Schedule:
    """Erase a constant fraction of the signal at each step (paper section 2.4.1).

    With the defaults this is beta_t = 1 / (T - t + 1) exactly, the paper's
    schedule for binomial diffusion: alpha_bar_t = 1 - t / T. A small `beta_1`
    lifts the ceiling that the first step puts on K; a positive
    `alpha_bar_final` keeps nu_T finite, which Gaussian diffusion needs.

    Args:
      num_timesteps: T.
      beta_1: rate of the first step; None for 1 / T.
      alpha_bar_final: alpha_bar_T, in [0, 1 - beta_1).

    Raises:
      ValueError: if T < 1 or a rate lies outside (0, 1).
    """
    _check_timesteps(num_timesteps)
    if beta_1 is None:
        beta_1 = (1 - alpha_bar_final) / num_timesteps
    if not 0 < beta_1 <= 1 or (num_timesteps > 1 and beta_1 == 1):
        raise ValueError(f"schedule: beta_1 must lie in (0, 1), got {beta_1:g}")
    if not 0 <= alpha_bar_final < 1 - beta_1 and num_timesteps > 1:
        raise ValueError(f"schedule: alpha_bar_final must lie in [0, 1 - beta_1), got {alpha_bar_final:g}")
    fraction = np.arange(num_timesteps) / max(num_timesteps - 1, 1)
    lost = (1 - beta_1 - alpha_bar_final) * fraction
    # The last value is stated, not computed: (1 - beta_1) - lost would leave 1e-17.
    alpha_bar = (1 - beta_1) - lost
    if num_timesteps > 1:
        alpha_bar[-1] = alpha_bar_final
    return from_alpha_bar(alpha_bar, beta_1 + lost)


def linear(num_timesteps: int, *, beta_1: float | None = None, beta_final: float | None = None) -> Schedule:
    """beta_t linear in t (Ho et al. 2020, section 4).

    Args:
      num_timesteps: T.
      beta_1: first rate; None for 0.1 / T, which is DDPM's 1e-4 at T = 1000.
      beta_final: last rate; None for 20 / T, which is DDPM's 0.02 at T = 1000.
        Both defaults are kept below 0.999, which matters for T <= 20.

    Raises:
      ValueError: if T < 1 or a rate lies outside (0, 1).
    """
    _check_timesteps(num_timesteps)
    first = min(0.1 / num_timesteps, 0.999) if beta_1 is None else beta_1
    last = min(20.0 / num_timesteps, 0.999) if beta_final is None else beta_final
    _check_rate("beta_1", first)
    _check_rate("beta_final", last)
    return from_beta(np.linspace(first, last, num_timesteps))


def cosine(num_timesteps: int, *, offset: float = 0.008, beta_max: float = 0.999) -> Schedule:
    """alpha_bar_t a squared cosine (Nichol & Dhariwal 2021, equation 17).

    Args:
      num_timesteps: T.
      offset: s, which keeps the first steps from being too small.
      beta_max: largest rate; the last step would otherwise have rate 1.

    Raises:
      ValueError: if T < 1, offset <= 0 or beta_max lies outside (0, 1).
    """
    _check_timesteps(num_timesteps)
    _check_rate("beta_max", beta_max)
    if not offset > 0:
        raise ValueError(f"schedule: offset must be positive, got {offset:g}")
    angle = (np.arange(num_timesteps + 1) / num_timesteps + offset) / (1 + offset) * (np.pi / 2)
    # beta_t = (cos^2 a - cos^2 b) / cos^2 a = sin(b - a) sin(b + a) / cos^2 a.
    a, b = angle[:-1], angle[1:]
    beta = np.sin(b - a) * np.sin(b + a) / np.cos(a) ** 2
    return from_beta(np.minimum(beta, beta_max))


def sigmoid(num_timesteps: int, *, start: float = -3.0, end: float = 3.0, alpha_bar_final: float = 1e-4) -> Schedule:
    """alpha_bar_t a falling sigmoid of t, cut out of it between two points (Jabri et al. 2022, appendix A).

    Args:
      num_timesteps: T.
      start: where on the sigmoid t = 0 is; further below zero, less noise in the first steps.
      end: where t = T is; nearer to zero, more noise in the last steps.
      alpha_bar_final: alpha_bar_T, in (0, 1): Gaussian diffusion needs nu_T finite.

    Raises:
      ValueError: if T < 1, end <= start, or alpha_bar_final lies outside (0, 1).
    """
    _check_timesteps(num_timesteps)
    _check_rate("alpha_bar_final", alpha_bar_final)
    if not end > start:
        raise ValueError(f"schedule: end must exceed start = {start:g}, got {end:g}")
    rise = 1 / (1 + np.exp(-np.linspace(start, end, num_timesteps + 1)))
    sigma2 = (1 - alpha_bar_final) * (rise[1:] - rise[0]) / (rise[-1] - rise[0])
    return from_alpha_bar(1 - sigma2, sigma2)


def bump_basis(position: Array, num_bumps: int) -> Array:
    """Normalised Gaussian bumps over [0, 1], the paper's temporal basis (appendix D.2.1).

    Args:
      position: [...] in [0, 1].
      num_bumps: how many, centred from 0 to 1, half a spacing wide; at least 1.

    Returns:
      [..., num_bumps], non-negative, summing to one.
    """
    spacing = 1 / max(num_bumps - 1, 1)
    centres = jnp.arange(num_bumps, dtype=jnp.float32) * spacing
    centres = centres.reshape((1,) * position.ndim + (-1,))
    return jax.nn.softmax(-0.5 * ((position[..., None] - centres) / (spacing / 2)) ** 2, axis=-1)


def learned(base: Schedule, coefficients: Array) -> Schedule:
    """Schedule with learned beta_2..beta_T (paper section 2.4.1, Gaussian diffusion).

    The increments of log nu are those of `base`, each times exp(b_t . c), b_t the
    bump basis at t, and rescaled to the same sum. So zero coefficients give `base`,
    and beta_1 (fixed against overfitting), nu_T and the order of the levels are kept
    whatever the coefficients. With x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t)
    eps and eps held fixed ("frozen noise"), K is differentiable in the coefficients.
    Binomial samples are not differentiable in beta; that kernel takes a fixed schedule.

    Args:
      base: a schedule with nu_T finite.
      coefficients: [num_bumps] float32, unconstrained.
    """
    num_steps = base.num_timesteps - 1
    if num_steps < 1:
        return base
    position = jnp.arange(num_steps) / max(num_steps - 1, 1)
    increments = base.log_nsr_step[2:]
    # Accelerators multiply float32 matrices in fewer bits by default.
    log_weight = jnp.matmul(bump_basis(position, coefficients.shape[-1]), coefficients, precision="highest")
    log_step = jax.nn.log_softmax(jnp.log(increments) + log_weight) + jnp.log(increments.sum())
    step = jnp.exp(log_step)
    log_nsr = jnp.concatenate([base.log_nsr[1:2], base.log_nsr[1] + jnp.cumsum(step)])
    return _assemble(log_nsr, step, jnp)


def with_ends(base: Schedule, shift: Array) -> Schedule:
    """Schedule with learned ends, log nu_1 and log nu_T (Kingma et al. 2021, VDM: learned SNR_min and SNR_max).

        log nu_t = log nu_1 + shift_0 + exp(shift_1) (log nu_t - log nu_1), those of `base` on the right

    A shift of zero gives `base`. The ends keep their order, and a distance, whatever the shift; levels between keep
    their relative places. K is differentiable in it as in the coefficients of `learned`.

    Args:
      base: a schedule with nu_T finite.
      shift: [2] float32, unconstrained.
    """
    first = base.log_nsr[1:2] + shift[0]
    step = base.log_nsr_step[2:] * jnp.exp(shift[1])
    return _assemble(jnp.concatenate([first, first + jnp.cumsum(step)]), step, jnp)

"""Gaussian diffusion: the paper's Table App.1, left column, in the order of the derivation.

    q(x_t | x_{t-1})      = N(sqrt(1 - beta_t) x_{t-1},  beta_t I)                 forward
    q(x_t | x_0)          = N(sqrt(alpha_bar_t) x_0,  (1 - alpha_bar_t) I)         marginal, q_sample
    q(x_{t-1} | x_t, x_0) = N(b_t x_0 + a_t x_t,  v_t I)                           q_posterior
    p(x_{t-1} | x_t)      = N(f_mu(x_t, t),  f_Sigma(x_t, t))                      *_reverse
    pi(x)                 = N(0, I)                                                prior

With r = nu_{t-1} / nu_t, the fall of the noise-to-signal ratio over the step, and
sigma2_t = 1 - alpha_bar_t, Bayes' rule gives

    b_t = sqrt(alpha_bar_{t-1}) (1 - r)
    a_t = sqrt(r) sqrt(sigma2_{t-1} / sigma2_t)
    v_t = sigma2_{t-1} (1 - r),

which hold at t = 1 too (r = 0: the posterior is the point x_0) and at nu_T = inf.

Shapes: x is [B, ...]; t is int32 [B], in 1..T (0..T for `marginal`). Sums are over
everything but the batch, in nats. All is float32. `binomial` has the same verbs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import log_ndtr

from dpm_jax.schedules import Schedule
from dpm_jax.shapes import at, sum_event

__all__ = [
    "FullNormal",
    "Normal",
    "as_full",
    "bin_log_prob",
    "denoised_full_reverse",
    "denoised_reverse",
    "entropy",
    "forward",
    "forward_edge",
    "kl",
    "log_prob",
    "marginal",
    "mixed",
    "mixed_full",
    "noise",
    "null_log_prob",
    "perturbation_reverse",
    "place",
    "prior",
    "q_posterior",
    "q_sample",
    "sample",
]

_LOG_2PI = math.log(2 * math.pi)


class Normal(NamedTuple):
    """Independent normals: mean and variance, both of x's shape (or broadcasting to it)."""

    mean: Array
    variance: Array


class FullNormal(NamedTuple):
    """A normal with full covariance, for low-dimensional data: its algebra is unrolled, for d up to about 6.

    Attributes:
      mean: [B, d].
      scale_tril: [B, d, d], lower triangular, positive diagonal; covariance
        scale_tril @ scale_tril^T.
    """

    mean: Array
    scale_tril: Array


# --- The forward trajectory, section 2.1 ---


def forward(schedule: Schedule, x_prev: Array, t: Array) -> Normal:
    """One forward step, q(x_t | x_{t-1}) (equation 2, Table App.1).

    Args:
      schedule: of T steps.
      x_prev: [B, ...] x_{t-1}.
      t: [B] in 1..T.
    """
    beta = at(schedule.beta, t, x_prev)
    return Normal(jnp.sqrt(1 - beta) * x_prev, jnp.broadcast_to(beta, x_prev.shape))


def marginal(schedule: Schedule, x_0: Array, t: Array) -> Normal:
    """q(x_t | x_0): t forward steps at once. At t = 0 it is the point x_0.

    Args:
      schedule: of T steps.
      x_0: [B, ...].
      t: [B] in 0..T.
    """
    mean = jnp.sqrt(at(schedule.alpha_bar, t, x_0)) * x_0
    return Normal(mean, jnp.broadcast_to(at(schedule.sigma2, t, x_0), x_0.shape))


def q_sample(key: Array, schedule: Schedule, x_0: Array, t: Array) -> Array:
    """x_t ~ q(x_t | x_0), reparameterised: differentiable in the schedule and in x_0.

    Args:
      key: the noise eps depends on it alone ("frozen noise", section 2.4.1).
      schedule: of T steps.
      x_0: [B, ...].
      t: [B] in 0..T.

    Returns:
      [B, ...] x_t.
    """
    return sample(key, marginal(schedule, x_0, t))


def _posterior_coefficients(schedule: Schedule, t: Array, like: Array) -> tuple[Array, Array, Array]:
    """a_t, b_t and v_t of the module's docstring, broadcasting against `like`."""
    step = at(schedule.log_nsr_step, t, like)
    sigma2_prev = at(schedule.sigma2, t - 1, like)
    gain = -jnp.expm1(-step)
    a = jnp.exp(-0.5 * step) * jnp.sqrt(sigma2_prev / at(schedule.sigma2, t, like))
    b = jnp.sqrt(at(schedule.alpha_bar, t - 1, like)) * gain
    return a, b, sigma2_prev * gain


def q_posterior(schedule: Schedule, x_0: Array, x_t: Array, t: Array) -> Normal:
    """q(x_{t-1} | x_t, x_0), the forward chain run backwards from a known start (appendix B.3).

    Args:
      schedule: of T steps.
      x_0: [B, ...].
      x_t: [B, ...].
      t: [B] in 1..T. At t = 1 the variance is zero.
    """
    a, b, variance = _posterior_coefficients(schedule, t, x_t)
    return Normal(b * x_0 + a * x_t, jnp.broadcast_to(variance, x_t.shape))


def prior(x: Array) -> Normal:
    """pi, the law of x_T in the model: standard normal, of x's shape."""
    return Normal(jnp.zeros_like(x), jnp.ones_like(x))


# --- The reverse trajectory, section 2.2: network outputs -> p(x_{t-1} | x_t) ---


def perturbation_reverse(schedule: Schedule, x_t: Array, t: Array, outputs: Array) -> Normal:
    """The paper's parameterisation: mean and variance as perturbations of a forward step.

        mean     = sqrt(1 - beta_t) x_t + sqrt(beta_t) z_mu
        variance = sigmoid(z_Sigma + logit(beta_t))

    (appendix D.2.1, in the form of the authors' released code). Zero outputs are exact
    for standard normal data.

    Args:
      schedule: of T steps; beta_t < 1.
      x_t: [B, ..., c].
      t: [B] in 1..T.
      outputs: [B, ..., 2 c], z_mu then z_Sigma.
    """
    z_mu, z_sigma = jnp.split(outputs, 2, axis=-1)
    beta = at(schedule.beta, t, x_t)
    mean = jnp.sqrt(1 - beta) * x_t + jnp.sqrt(beta) * z_mu
    return Normal(mean, jax.nn.sigmoid(z_sigma + jnp.log(beta) - jnp.log1p(-beta)))


def _denoise(schedule: Schedule, x_t: Array, t: Array, perturbation: Array) -> Array:
    """(x_t - sqrt(sigma2_t) eps_hat) / sqrt(alpha_bar_t), eps_hat = sqrt(sigma2_t) x_t + perturbation.

    Simplified, so that nothing cancels where little signal is left.
    """
    alpha_bar = at(schedule.alpha_bar, t, x_t)
    return jnp.sqrt(alpha_bar) * x_t - jnp.sqrt(at(schedule.sigma2, t, x_t) / alpha_bar) * perturbation


def mixed(schedule: Schedule, x_0: Array, variance: Array, x_t: Array, t: Array) -> Normal:
    """Integral of q(x_{t-1} | x_t, x_0) over a normal law of x_0 given x_t, coordinates independent.

        N(b_t E[x_0] + a_t x_t,  v_t + b_t^2 Var[x_0])

    Args:
      schedule: of T steps.
      x_0: [B, ...] its mean.
      variance: broadcasting to [B, ...], its variance.
      x_t: [B, ...].
      t: [B] in 1..T.
    """
    a, b, posterior_variance = _posterior_coefficients(schedule, t, x_t)
    return Normal(b * x_0 + a * x_t, jnp.broadcast_to(posterior_variance + b**2 * variance, x_t.shape))


def mixed_full(schedule: Schedule, x_0: Array, covariance: Array, x_t: Array, t: Array) -> FullNormal:
    """`mixed` for a law of x_0 given x_t with full covariance.

    Args:
      schedule: of T steps.
      x_0: [B, d] its mean.
      covariance: [B, d, d], positive semi-definite; definite at t = 1, where v_t is zero.
      x_t: [B, d].
      t: [B] in 1..T.
    """
    a, b, posterior_variance = _posterior_coefficients(schedule, t, x_t)
    total = (b**2)[..., None] * covariance + posterior_variance[..., None] * jnp.eye(x_t.shape[-1])
    return FullNormal(b * x_0 + a * x_t, _cholesky(total))


def denoised_reverse(schedule: Schedule, x_t: Array, t: Array, outputs: Array) -> Normal:
    """`mixed`, with a law of x_0 given x_t that the network predicts, through the noise.

        eps_hat = sqrt(sigma2_t) x_t + f,   E[x_0] = (x_t - sqrt(sigma2_t) eps_hat) / sqrt(alpha_bar_t)
        Var[x_0] = sigma2_t exp(c)

    Zero outputs are exact for standard normal data; the variance of x_{t-1} is never below
    v_t, as that of the optimal reverse step never is.

    Args:
      schedule: of T steps; nu_T finite.
      x_t: [B, ..., k].
      t: [B] in 1..T.
      outputs: [B, ..., 2 k], f then c.
    """
    f, log_variance = jnp.split(outputs, 2, axis=-1)
    variance = at(schedule.sigma2, t, x_t) * jnp.exp(log_variance)
    return mixed(schedule, _denoise(schedule, x_t, t, f), variance, x_t, t)


def denoised_full_reverse(schedule: Schedule, x_t: Array, t: Array, outputs: Array) -> FullNormal:
    """`denoised_reverse` with a full covariance of x_0 given x_t, for low-dimensional data.

    The covariance is sigma2_t L L^T with L lower triangular; on a curve, such as the
    swiss roll, the noise along it and across it differ, and a diagonal cannot say so.

    Args:
      schedule: of T steps; nu_T finite.
      x_t: [B, d].
      t: [B] in 1..T.
      outputs: [B, d + d (d + 1) / 2]: f; then c, with L_ii = exp(c_i / 2); then L's
        entries below the diagonal, row by row.
    """
    dim = x_t.shape[-1]
    f, log_variance, below = jnp.split(outputs, [dim, 2 * dim], axis=-1)
    scale = jnp.exp(0.5 * log_variance)
    # Entry by entry: scatters and batched products of tiny matrices cost more than the network.
    entries = iter(jnp.moveaxis(below, -1, 0))
    low = [[scale[..., i] if i == j else next(entries) for j in range(i + 1)] for i in range(dim)]
    zero = jnp.zeros_like(scale[..., 0])
    rows = [[sum((a * b for a, b in zip(low[i], low[j], strict=False)), zero) for j in range(dim)] for i in range(dim)]
    covariance = at(schedule.sigma2, t, x_t)[..., None] * _matrix(rows)
    return mixed_full(schedule, _denoise(schedule, x_t, t, f), covariance, x_t, t)


def forward_edge(
    schedule: Schedule, reverse: Callable[[Array, Array], Normal | FullNormal]
) -> Callable[[Array, Array], Normal | FullNormal]:
    """A reverse function whose last step p(x_0 | x_1) is the forward kernel (appendix B.2).

    Args:
      schedule: of T steps.
      reverse: (x_t, t) -> distribution; its answer at t = 1 is replaced.
    """

    def with_edge(x_t: Array, t: Array) -> Normal | FullNormal:
        p = reverse(x_t, t)
        edge: Normal | FullNormal = forward(schedule, x_t, jnp.ones_like(t))
        if isinstance(p, FullNormal):
            edge = as_full(edge)
        at_edge = t == 1
        return type(p)(
            *(jnp.where(at_edge.reshape((-1,) + (1,) * (o.ndim - 1)), e, o) for e, o in zip(edge, p, strict=True))
        )

    return with_edge


# --- Laws: sampling, densities, entropies, the KL divergence of equation 14 ---


def _matrix(rows: list[list[Array]]) -> Array:
    """[..., d, d] from its entries, each [...]."""
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def _cholesky(covariance: Array) -> Array:
    """Lower Cholesky factor of [..., d, d], unrolled over d.

    For d = 2 the batched library routine calls LAPACK once an example, which costs
    more than the network whose step it is.
    """
    dim = covariance.shape[-1]
    low: list[list[Array]] = [[jnp.zeros_like(covariance[..., 0, 0])] * dim for _ in range(dim)]
    for i in range(dim):
        for j in range(i + 1):
            rest = covariance[..., i, j] - sum((low[i][k] * low[j][k] for k in range(j)), 0.0)
            low[i][j] = jnp.sqrt(rest) if i == j else rest / low[j][j]
    return _matrix(low)


def _solve_lower(tril: Array, b: Array) -> Array:
    """tril^{-1} b for tril [..., d, d] and b [..., d], by forward substitution, unrolled."""
    x: list[Array] = []
    for i in range(b.shape[-1]):
        x.append((b[..., i] - sum((tril[..., i, k] * x[k] for k in range(i)), 0.0)) / tril[..., i, i])
    return jnp.stack(x, axis=-1)


def as_full(p: Normal | FullNormal) -> FullNormal:
    """The same law, as a `FullNormal`; p of shape [B, d]."""
    if isinstance(p, FullNormal):
        return p
    return FullNormal(p.mean, jnp.sqrt(p.variance)[..., None] * jnp.eye(p.mean.shape[-1]))


def noise(key: Array, shape: tuple[int, ...]) -> Array:
    """What `place` makes samples of: standard normal, float32."""
    return jax.random.normal(key, shape, jnp.float32)


def place(p: Normal | FullNormal, noise: Array) -> Array:
    """mean + scale * noise: the sample of p that this noise stands for, [B, ...]."""
    if isinstance(p, FullNormal):
        tril, dim = p.scale_tril, p.mean.shape[-1]
        spread = [sum(tril[..., i, j] * noise[..., j] for j in range(i + 1)) for i in range(dim)]
        return p.mean + jnp.stack(spread, axis=-1)
    return p.mean + jnp.sqrt(p.variance) * noise


def sample(key: Array, p: Normal | FullNormal) -> Array:
    """A draw of p's shape, [B, ...]; differentiable in p, the noise being a function of key alone."""
    return place(p, noise(key, p.mean.shape))


def log_prob(p: Normal | FullNormal, x: Array) -> Array:
    """log p(x) in nats, [B]."""
    if isinstance(p, FullNormal):
        z = _solve_lower(p.scale_tril, x - p.mean)
        log_variance = 2 * jnp.log(jnp.diagonal(p.scale_tril, axis1=-2, axis2=-1))
        return -0.5 * sum_event(z**2 + log_variance + _LOG_2PI)
    return -0.5 * sum_event((x - p.mean) ** 2 / p.variance + jnp.log(p.variance) + _LOG_2PI)


def bin_log_prob(p: Normal, x: Array, *, width: float, lowest: float, highest: float) -> Array:
    """log of the mass that p gives to the bin about x, in nats, [B]: a discretised decoder (DDPM, equation 13).

    With p(x_0 | x_1) for p this makes K a bound on the log-probability of quantised data
    themselves, with no noise added to them.

    Args:
      p: independent normals.
      x: [B, ...], middles of bins.
      width: of a bin.
      lowest: middle of the first bin, which reaches to -infinity.
      highest: middle of the last bin, which reaches to infinity: so all masses sum to one.
    """
    scale = jnp.sqrt(p.variance)
    low = jnp.where(x > lowest + width / 2, (x - width / 2 - p.mean) / scale, -jnp.inf)
    high = jnp.where(x < highest - width / 2, (x + width / 2 - p.mean) / scale, jnp.inf)
    # In the lower tail, where the logarithm of the distribution function keeps its digits.
    flip = low + high > 0
    low, high = jnp.where(flip, -high, low), jnp.where(flip, -low, high)
    log_high, log_low = log_ndtr(high), log_ndtr(low)
    return sum_event(log_high + jnp.log(-jnp.expm1(log_low - log_high)))


def entropy(p: Normal | FullNormal) -> Array:
    """Differential entropy in nats, [B]."""
    if isinstance(p, FullNormal):
        log_variance = 2 * jnp.log(jnp.diagonal(p.scale_tril, axis1=-2, axis2=-1))
    else:
        log_variance = jnp.broadcast_to(jnp.log(p.variance), p.mean.shape)
    return 0.5 * sum_event(log_variance + _LOG_2PI + 1)


def kl(q: Normal, p: Normal | FullNormal) -> Array:
    """KL(q || p) in nats, [B]; q has independent components, as every posterior has.

    Logarithms are taken of ratios of variances, which are near one on fine schedules,
    and not as differences of logarithms, which are not.
    """
    if isinstance(p, FullNormal):
        mean = _solve_lower(p.scale_tril, q.mean - p.mean)
        scale = jnp.sqrt(q.variance)
        dim = scale.shape[-1]
        columns = [_solve_lower(p.scale_tril, scale * jnp.eye(dim)[i]) for i in range(dim)]
        trace = sum((c**2 for c in columns), jnp.zeros_like(scale))
        ratio = q.variance / jnp.diagonal(p.scale_tril, axis1=-2, axis2=-1) ** 2
        return 0.5 * sum_event(mean**2 + trace - 1 - jnp.log(ratio))
    ratio = q.variance / p.variance
    return 0.5 * sum_event((q.mean - p.mean) ** 2 / p.variance + (ratio - 1) - jnp.log(ratio))


def null_log_prob(x_0: Array) -> Array:
    """log-density of the paper's null model, the standard normal, in nats, [B] (section 3).

    On data of zero mean and unit variance its mean is -2.047 bits a dimension.
    """
    return log_prob(prior(x_0), x_0)

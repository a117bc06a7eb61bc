"""Exact chains, and laws of x_0 of whole chains, in float64 with nothing drawn: the truth about posteriors."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit

from dpm_jax import FullNormal, Gaussian, Model, Normal

STRINGS = np.array(list(itertools.product((0.0, 1.0), repeat=5)))


def normal_chain(schedule, mean, covariance):
    """Models of N(mean, covariance) data, with the forward kernel at the edge, from tables.

    By conditioning the joint law of x_0 and x_t. One with full covariance, and one as a network of images
    has it: the right mean, and a variance for each coordinate.
    """
    dim, num_timesteps = len(mean), schedule.num_timesteps
    alpha_bar, sigma2, beta = (np.asarray(a, np.float64) for a in (schedule.alpha_bar, schedule.sigma2, schedule.beta))
    matrix, offset, spread = (np.zeros((num_timesteps + 1, dim, *rest)) for rest in ((dim,), (), (dim,)))
    matrix[1], spread[:2] = np.sqrt(1 - beta[1]) * np.eye(dim), beta[1] * np.eye(dim)
    for t in range(2, num_timesteps + 1):
        signal = np.sqrt(alpha_bar[t])
        matrix[t] = signal * covariance @ np.linalg.inv(alpha_bar[t] * covariance + sigma2[t] * np.eye(dim))
        offset[t] = mean - signal * matrix[t] @ mean
        spread[t] = covariance - signal * matrix[t] @ covariance
    tril = jnp.asarray(np.linalg.cholesky(spread), jnp.float32)
    variance = jnp.asarray(np.diagonal(spread, axis1=1, axis2=2), jnp.float32)
    matrix, offset = jnp.asarray(matrix, jnp.float32), jnp.asarray(offset, jnp.float32)

    def guess(x_t, t):
        return (matrix[t] * x_t[:, None]).sum(-1) + offset[t]

    process = Gaussian(schedule)
    return (
        Model(process, lambda x_t, t: FullNormal(guess(x_t, t), tril[t])),
        Model(process, lambda x_t, t: Normal(guess(x_t, t), variance[t])),
    )


def independent_levels(process, levels, log_p):
    """The model of coordinates that are independent and have these levels with these log-probabilities."""

    def denoise(x_t, t):
        alpha_bar, sigma2 = (values[t][:, None] for values in (process.schedule.alpha_bar, process.schedule.sigma2))
        log_w = log_p - (x_t[..., None] - jnp.sqrt(alpha_bar)[..., None] * levels) ** 2 / 2 / sigma2[..., None]
        w = jax.nn.softmax(log_w)
        mean = (w * levels).sum(-1)
        return Normal(mean, (w * (levels - mean[..., None]) ** 2).sum(-1) + 1e-6)

    return Model(process, denoise)


def normal_law(model, dim):
    """Mean and covariance of x_0 of a chain of normal steps whose means are affine in x_t."""
    probes = jnp.concatenate([jnp.zeros((1, dim)), jnp.eye(dim)])

    @jax.jit
    def steps():
        def step(t):
            p = model.reverse(probes, jnp.full(dim + 1, t, jnp.int32))
            tril = p.scale_tril[0] if isinstance(p, FullNormal) else jnp.diag(jnp.sqrt(p.variance[0]))
            return p.mean, tril

        return jax.lax.map(step, jnp.arange(model.num_timesteps, 0, -1))

    mean, covariance = np.zeros(dim), np.eye(dim)
    for means, tril in zip(*(np.asarray(a, np.float64) for a in steps()), strict=True):
        matrix = (means[1:] - means[0]).T
        mean, covariance = means[0] + matrix @ mean, matrix @ covariance @ matrix.T + tril @ tril.T
    return mean, covariance


def conditioned(law, operator, y, noise):
    """The law of x given y = operator x + noise, noise[i] the variance of each, and log p(y)."""
    mean, covariance = law
    total = operator @ covariance @ operator.T + np.diag(noise)
    gain = np.linalg.solve(total, operator @ covariance).T
    difference = y - operator @ mean
    log_z = -0.5 * (difference @ np.linalg.solve(total, difference) + np.linalg.slogdet(2 * np.pi * total)[1])
    return (mean + gain @ difference, covariance - gain @ operator @ covariance), log_z


def string_law(logits):
    """Probabilities of all strings of five independent bits."""
    return expit(np.where(STRINGS == 1, 1.0, -1.0) * np.asarray(logits, float)).prod(1)


def bits_law(model):
    """Probabilities of all strings at x_0, from the 32 x 32 matrices of the steps."""
    x = jnp.asarray(STRINGS, jnp.float32)
    steps = jax.jit(lambda: jax.lax.map(lambda t: model.reverse(x, jnp.full(32, t, jnp.int32)).logits, times))
    times = jnp.arange(model.num_timesteps, 0, -1)
    law = np.full(32, 1 / 32)
    for logits in np.asarray(steps(), np.float64):
        ones = logits[:, None]
        law = law @ expit(np.where(STRINGS[None] == 1, ones, -ones)).prod(-1)
    return law

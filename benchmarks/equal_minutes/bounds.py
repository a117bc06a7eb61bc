"""K of both models by the same functions, on the same held-out images.

PyTorch's network only predicts: what it is asked, x_t and t, is drawn here, and the bound of its answers is computed
here. K is as in `bound.evaluate` with `num_times`: one t of each of as many equal stretches of 2..T.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import dpm_jax
from dpm_jax import Gaussian, bound, predictions, schedules
from dpm_jax.distributions import Normal
from dpm_jax.evaluation import report
from dpm_jax.units import bits, discrete_bits_per_dimension

__all__ = ["Questions", "of_answers", "of_run", "questions", "schedule_arrays"]

# T = 1000 and the cosine schedule are improved-diffusion's (Nichol & Dhariwal 2021); 27 x 37 = T - 1.
_PROCESS = Gaussian(schedules.cosine(1000))
_STRETCHES, _LENGTH = 27, 37
# Middles of the bins of grey levels, in the units of PyTorch's network.
_BINS = {"width": 2 / 255, "lowest": -1.0, "highest": 1.0}
_PART = 256


class Questions(NamedTuple):
    """The states and times that the network is asked about.

    Attributes:
      x_0: [N, H, W, C] images, from -1 to 1.
      x_t: [28 N, H, W, C]; the first N at t = 1, for the decoder.
      t: int32 [28 N].
    """

    x_0: Array
    x_t: Array
    t: Array


def questions(images: np.ndarray) -> Questions:
    """Draw times and noise for images, [N, H, W, C] uint8."""
    time_key, noise_key = jax.random.split(jax.random.key(0))
    x_0 = jnp.asarray(images, jnp.float32) / 127.5 - 1
    first = 2 + _LENGTH * np.repeat(np.arange(_STRETCHES), len(images))
    within = jax.random.randint(time_key, first.shape, 0, _LENGTH)
    t = jnp.concatenate([jnp.ones(len(images), jnp.int32), jnp.asarray(first, jnp.int32) + within])
    x_t = _PROCESS.marginal(_every(x_0), t).sample(noise_key)
    return Questions(x_0, x_t, t)


def schedule_arrays() -> dict[str, np.ndarray]:
    """Return alpha_bar, beta and the posterior's variance at t = 0..T, for the loss; the latter is beta_1 at t = 1."""
    schedule = _PROCESS.schedule
    beta, sigma2 = np.asarray(schedule.beta, np.float64), np.asarray(schedule.sigma2, np.float64)
    variance = beta.copy()
    variance[2:] *= sigma2[1:-1] / sigma2[2:]
    return {"alpha_bar": np.asarray(schedule.alpha_bar), "beta": beta, "variance": variance}


def of_answers(asked: Questions, answers: np.ndarray) -> np.ndarray:
    """Return bits/dim of each image, [N], with the decoder of the grey levels' bins.

    Args:
      asked: the questions.
      answers: [28 N, H, W, 2 C], the noise, and c of the variance beta_t^s v_t^(1 - s), s = (1 + c) / 2.
    """

    def network(x_t: Array, t: Array, answers: Array) -> Array:
        epsilon, c = jnp.split(answers, 2, axis=-1)
        turn = partial(predictions.convert, _PROCESS.schedule, x_t=x_t, t=t)
        # The authors' own evaluation clips, too.
        x_0 = jnp.clip(turn(epsilon, source="epsilon", target="x_0"), -1, 1)
        return jnp.concatenate([turn(x_0, source="x_0", target="epsilon"), c], axis=-1)

    @jax.jit
    def terms(x_0: Array, x_t: Array, t: Array, answers: Array) -> tuple[Array, Array]:
        how: Any = {"prediction": "epsilon", "variance": "interpolated"}
        p = predictions.gaussian(_PROCESS, lambda x, t: network(x, t, answers), **how).reverse(x_t, t)
        return Normal.bin_log_prob(p, x_0, **_BINS), _PROCESS.posterior(x_0, x_t, t).kl(p)

    num, every = len(asked.x_0), _every(asked.x_0)
    found = []
    for i in range(0, len(every), _PART):
        part = slice(i, i + _PART)
        found.append(terms(every[part], asked.x_t[part], asked.t[part], jnp.asarray(answers[part])))
    edge, kl = (np.concatenate([np.asarray(one, np.float64) for one in values]) for values in zip(*found, strict=True))
    kl = kl[num:] - _surplus(kl[num:], np.asarray(asked.t[num:]))
    k = edge[:num] - _LENGTH * kl.reshape(_STRETCHES, num).sum(0) - bound.prior_term(_PROCESS, asked.x_0)
    return np.asarray(-bits(k) / np.prod(asked.x_0.shape[1:]))


def _surplus(kl: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Return what a smooth curve of the KL against t is at t, less its mean over the stretch.

    Where in its stretch an image's t happens to lie is most of the noise. The mean of this over t is 0, whatever the
    curve, so that what it is taken from keeps its mean.
    """
    curve = np.polynomial.Polynomial.fit(np.log(t), np.log(np.maximum(kl, 1e-12)), 6)
    every = np.exp(curve(np.log(np.arange(2, _PROCESS.num_timesteps + 1))))
    means = every.reshape(_STRETCHES, _LENGTH).mean(1)
    return np.asarray(every[t - 2] - means[(t - 2) // _LENGTH])


def of_run(workdir: Path, step: int, images: np.ndarray) -> np.ndarray:
    """Return bits/dim of each image, [N], by a checkpoint of a run of this project, of dequantised pixels."""
    run = dpm_jax.load(workdir, checkpoint=step)
    x_0 = run.standardize(images, jax.random.key(0))
    built = run.experiment
    found, _ = report.in_chunks(jax.random.key(1), built, built.model, run.params, x_0, built.edge)
    k = np.asarray(found.k, np.float64)
    return np.asarray(discrete_bits_per_dimension(k, run.standardization.scale, run.shape))


def _every(x_0: Array) -> Array:
    """Repeat the images for the decoder's question and that of each stretch."""
    return jnp.tile(x_0, (1 + _STRETCHES, 1, 1, 1))

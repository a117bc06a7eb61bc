"""Diffusion of images with noise of the data's spectrum: around their best stationary Gaussian model.

For x = M z, M = B^T diag(s) B of a `Spectrum`, Gaussian diffusion of z is diffusion of x in which noise of every
frequency meets the data's variance at the same t,

    q(x_t | x_0) = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) M M^T),

and the prior N(0, M M^T) is the Gaussian model. White noise erases fine detail first, and a network has to learn the
spectrum; here it begins with it. It is the perturbation around an energy-based model of the paper's outlook, in its
simplest exact form. Densities are those of x: K of a model here and of one with white noise can be compared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dpm_jax.distributions import Normal
from dpm_jax.distributions.base import is_law
from dpm_jax.model import Model
from dpm_jax.processes import Gaussian
from dpm_jax.schedules import Schedule
from dpm_jax.spectrum import Spectrum

__all__ = ["Coloured", "ColouredNormal", "in_colour", "in_white"]


@partial(jax.tree_util.register_dataclass, data_fields=("white",), meta_fields=("spectrum",))
@dataclasses.dataclass(frozen=True)
class ColouredNormal:
    """Distribution of x = M z, z independent normals.

    Attributes:
      white: `Normal` of z.
      spectrum: M.
    """

    white: Normal
    spectrum: Spectrum

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the batch: one independent distribution for each entry."""
        return self.white.batch_shape

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one image."""
        return self.white.event_shape

    @property
    def mean(self) -> Array:
        """E[x], [*batch, H, W, C]."""
        return self.spectrum.colour(self.white.mean)

    @property
    def variance(self) -> Array:
        """Variance of each pixel, [*batch, H, W, C]. M is made whole for it, so that it is for small images."""
        shape = self.event_shape
        size = int(np.prod(shape))
        squares = self.spectrum.colour(jnp.eye(size).reshape(size, *shape)).reshape(size, size) ** 2
        variance = self.white.variance.reshape(*self.batch_shape, size)
        return jnp.matmul(variance, squares, precision="highest").reshape(*self.batch_shape, *shape)

    def sample(self, key: Array) -> Array:
        """Sample x, [*batch, H, W, C]."""
        return self.spectrum.colour(self.white.sample(key))

    def log_prob(self, x: Array) -> Array:
        """Return log p(x) in nats, [*batch]."""
        return self.white.log_prob(self.spectrum.whiten(jnp.asarray(x, jnp.float32))) + self._log_det

    def entropy(self) -> Array:
        """Return the entropy in nats, [*batch]."""
        return self.white.entropy() - self._log_det

    def kl(self, other: ColouredNormal) -> Array:
        """Return KL(self || other) in nats, [*batch]; both have this spectrum."""
        return self.white.kl(other.white)

    def product(self, evidence: ColouredNormal) -> tuple[ColouredNormal, Array]:
        """Return p(x) r(x) / Z and log Z, [*batch] nats, of evidence with this spectrum."""
        white, log_z = self.white.product(evidence.white)
        return ColouredNormal(white, self.spectrum), log_z + self._log_det

    def tilt(self, log_r: Callable[[Array], Array] | Array) -> ColouredNormal:
        """Return p(x) r(x) / Z with log r linearised, or the slope of a linear one, [*batch, H, W, C]."""
        colour = self.spectrum.colour
        of_z = (lambda z: log_r(colour(z))) if callable(log_r) else colour(log_r)
        return ColouredNormal(self.white.tilt(of_z), self.spectrum)

    @property
    def _log_det(self) -> float:
        return self.spectrum.log_det(self.event_shape)


@partial(jax.tree_util.register_dataclass, data_fields=("schedule",), meta_fields=("spectrum",))
@dataclasses.dataclass(frozen=True)
class Coloured:
    """Gaussian diffusion of images with noise of their spectrum. x is [B, H, W, C], t int32 [B].

    Attributes:
      schedule: of T steps.
      spectrum: of the data.
    """

    schedule: Schedule
    spectrum: Spectrum

    @property
    def num_timesteps(self) -> int:
        """T."""
        return self.schedule.num_timesteps

    @property
    def white(self) -> Gaussian:
        """The process of z."""
        return Gaussian(self.schedule)

    def prior(self, shape: tuple[int, ...], *, event_ndim: int | None = None) -> ColouredNormal:
        """Return p(x_T): the Gaussian model, for x_T of this shape."""
        return self._law(self.white.prior(shape, event_ndim=event_ndim))

    def forward(self, x_prev: Array, t: Array) -> ColouredNormal:
        """Return q(x_t | x_{t-1}), see `Gaussian.forward`."""
        return self._law(self.white.forward(self.spectrum.whiten(x_prev), t))

    def marginal(self, x_0: Array, t: Array) -> ColouredNormal:
        """Return q(x_t | x_0), see `Gaussian.marginal`."""
        return self._law(self.white.marginal(self.spectrum.whiten(x_0), t))

    def posterior(self, x_0: Any, x_t: Array, t: Array) -> ColouredNormal:
        """Return q(x_{t-1} | x_t, x_0); x_0 known, or a `ColouredNormal` over which it is mixed."""
        z_0 = x_0.white if is_law(x_0) else self.spectrum.whiten(x_0)
        return self._law(self.white.posterior(z_0, self.spectrum.whiten(x_t), t))

    def kl_rate(self, x_0: Array, p: ColouredNormal, x_t: Array, t: Array) -> Array:
        """Return the KL of a reverse step by its length in t, [B] nats, see `Gaussian.kl_rate`."""
        return self.white.kl_rate(self.spectrum.whiten(x_0), p.white, self.spectrum.whiten(x_t), t)

    def null_log_prob(self, x_0: Array) -> Array:
        """Return the log-density of the paper's null model, the standard normal, in nats, [B] (section 3)."""
        return self.white.null_log_prob(x_0)

    def _law(self, white: Any) -> ColouredNormal:
        return ColouredNormal(white, self.spectrum)


def in_colour(model: Model, spectrum: Spectrum) -> Model:
    """Return the model of images x whose z a model describes: the same chain, in the data's units.

    Args:
      model: of z, of the Gaussian process with independent coordinates; its network sees z_t, whose noise is white.
      spectrum: of the data.

    Raises:
      ValueError: if the model is of another process.
    """
    if not isinstance(model.process, Gaussian):
        raise ValueError(f"model: must be of the Gaussian process, got {type(model.process).__name__}")

    def of_x(law: Callable[[Array, Array], Any]) -> Callable[[Array, Array], Any]:
        return lambda x_t, t: ColouredNormal(law(spectrum.whiten(x_t), t), spectrum)

    denoise = None if model.denoise is None else of_x(model.denoised)
    steps = None if model.steps is None else of_x(model.reverse)
    return Model(Coloured(model.process.schedule, spectrum), denoise, steps)


def in_white(model: Model) -> Model:
    """Return the model of z whose images x a model with noise of a spectrum describes: the inverse of `in_colour`.

    Args:
      model: of the process `Coloured`.

    Raises:
      ValueError: if the model is of another process.
    """
    process = model.process
    if not isinstance(process, Coloured):
        raise ValueError(f"model: must be of the process Coloured, got {type(process).__name__}")

    def of_z(law: Callable[[Array, Array], Any]) -> Callable[[Array, Array], Any]:
        return lambda z_t, t: law(process.spectrum.colour(z_t), t).white

    denoise = None if model.denoise is None else of_z(model.denoised)
    steps = None if model.steps is None else of_z(model.reverse)
    return Model(process.white, denoise, steps)

"""Diffusion of images with noise of the data's spectrum: around their best stationary Gaussian model.

With an orthonormal basis B (cosines over height and width, principal axes over channels) and the standard deviation s
of the data's coefficient at each frequency, z = B^T diag(1/s) B x is an image whose coefficients have unit variance.
Gaussian diffusion of z is diffusion of x in which noise of every frequency meets the data's variance at the same t,

    q(x_t | x_0) = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) M M^T),   M = B^T diag(s) B,
    log p(x) = log p(z) - sum log s,

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
from dpm_jax.numerics.cosines import cosines
from dpm_jax.processes import Gaussian
from dpm_jax.schedules import Schedule

__all__ = ["Coloured", "ColouredNormal", "Spectrum", "coloured", "fit"]

# The least standard deviation of a coefficient, in units of the greatest: less is rounding.
_LEAST = 1e-4


# Compared and hashed by identity: a constant of the programs that it is in.
@dataclasses.dataclass(frozen=True, eq=False)
class Spectrum:
    """Standard deviations of the coefficients of images [..., H, W, C]; `fit` makes it.

    Attributes:
      log_scale: [H, W, C] log of the standard deviation, by frequency along height and width, and by principal axis.
      axes: [C, C] orthonormal principal axes of the channels, an axis a row.
    """

    log_scale: np.ndarray
    axes: np.ndarray

    def whiten(self, x: Array) -> Array:
        """Return z of images x, [..., H, W, C]."""
        return self._scaled(x, -self.log_scale)

    def colour(self, z: Array) -> Array:
        """Return x of z, [..., H, W, C]; this map is symmetric."""
        return self._scaled(z, self.log_scale)

    @property
    def log_det(self) -> float:
        """Log of the volume of z for that of x, nats an image: log p(x) = log p(z) + log_det."""
        return -float(np.sum(self.log_scale, dtype=np.float64))

    def resized(self, height: int, width: int) -> Spectrum:
        """Return the spectrum of images of another size, by frequencies in cycles a pixel, linear in between."""
        scale = np.asarray(self.log_scale, np.float64)
        for axis, size in enumerate((height, width)):
            rows = np.moveaxis(scale, axis, -1)
            known, wanted = np.arange(rows.shape[-1]) / rows.shape[-1], np.arange(size) / size
            between = [np.interp(wanted, known, row) for row in rows.reshape(-1, rows.shape[-1])]
            scale = np.moveaxis(np.reshape(between, (*rows.shape[:-1], size)), -1, axis)
        return Spectrum(scale.astype(np.float32), self.axes)

    def _scaled(self, x: Array, log_scale: np.ndarray) -> Array:
        height, width, _ = self.log_scale.shape
        if x.shape[-3:] != self.log_scale.shape:
            raise ValueError(f"x: images of shape {self.log_scale.shape} are needed, got {x.shape[-3:]}; use `resized`")
        product: Any = partial(jnp.einsum, precision="highest")
        y = product("ih,jw,kc,...hwc->...ijk", cosines(height), cosines(width), self.axes, x)
        y = y * np.exp(log_scale)
        return product("ih,jw,kc,...ijk->...hwc", cosines(height), cosines(width), self.axes, y)  # type: ignore[no-any-return]


def fit(images: np.ndarray) -> Spectrum:
    """Fit the spectrum of images.

    Args:
      images: [N, H, W, C] in the model's units, with the noise of dequantisation if they are pixels; some thousands.

    Raises:
      ValueError: if they have another shape, or hold nothing but zeros.
    """
    x = np.asarray(images, np.float64)
    if x.ndim != 4:
        raise ValueError(f"images: must have shape [N, H, W, C], got {x.shape}")
    flat = x.reshape(-1, x.shape[-1])
    _, axes = np.linalg.eigh(flat.T @ flat)
    height, width = (np.asarray(cosines(size), np.float64) for size in x.shape[1:3])
    coefficients = np.einsum("ih,jw,kc,nhwc->nijk", height, width, axes.T, x, optimize=True)
    scale = np.sqrt((coefficients**2).mean(0))
    if not scale.max() > 0:
        raise ValueError("images: hold nothing but zeros")
    log_scale = np.log(np.maximum(scale, _LEAST * scale.max()))
    return Spectrum(log_scale.astype(np.float32), axes.T.astype(np.float32))


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
        shape = self.spectrum.log_scale.shape
        size = int(np.prod(shape))
        squares = self.spectrum.colour(jnp.eye(size).reshape(size, *shape)).reshape(size, size) ** 2
        variance = self.white.variance.reshape(*self.batch_shape, size)
        return jnp.matmul(variance, squares, precision="highest").reshape(*self.batch_shape, *shape)

    def sample(self, key: Array) -> Array:
        """Sample x, [*batch, H, W, C]."""
        return self.spectrum.colour(self.white.sample(key))

    def log_prob(self, x: Array) -> Array:
        """Return log p(x) in nats, [*batch]."""
        return self.white.log_prob(self.spectrum.whiten(jnp.asarray(x, jnp.float32))) + self.spectrum.log_det

    def entropy(self) -> Array:
        """Return the entropy in nats, [*batch]."""
        return self.white.entropy() - self.spectrum.log_det

    def kl(self, other: ColouredNormal) -> Array:
        """Return KL(self || other) in nats, [*batch]; both have this spectrum."""
        return self.white.kl(other.white)

    def product(self, evidence: ColouredNormal) -> tuple[ColouredNormal, Array]:
        """Return p(x) r(x) / Z and log Z, [*batch] nats, of evidence with this spectrum."""
        white, log_z = self.white.product(evidence.white)
        return ColouredNormal(white, self.spectrum), log_z + self.spectrum.log_det

    def tilt(self, log_r: Callable[[Array], Array] | Array) -> ColouredNormal:
        """Return p(x) r(x) / Z with log r linearised, or the slope of a linear one, [*batch, H, W, C]."""
        colour = self.spectrum.colour
        of_z = (lambda z: log_r(colour(z))) if callable(log_r) else colour(log_r)
        return ColouredNormal(self.white.tilt(of_z), self.spectrum)


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


def coloured(model: Model, spectrum: Spectrum) -> Model:
    """Return the model of images x whose z a model describes: the same chain, in the data's units.

    Args:
      model: of z, of the Gaussian process with independent coordinates; its network sees z_t, whose noise is white.
      spectrum: of the data.

    Raises:
      ValueError: if the model is of another process.
    """
    if not isinstance(model.process, Gaussian):
        raise ValueError(f"model: must be of the Gaussian process, got {type(model.process).__name__}")

    def in_colour(law: Callable[[Array, Array], Any]) -> Callable[[Array, Array], Any]:
        return lambda x_t, t: ColouredNormal(law(spectrum.whiten(x_t), t), spectrum)

    denoise = None if model.denoise is None else in_colour(model.denoised)
    steps = None if model.steps is None else in_colour(model.reverse)
    return Model(Coloured(model.process.schedule, spectrum), denoise, steps)

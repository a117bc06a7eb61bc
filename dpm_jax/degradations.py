"""Degradations D(x_0, t) of images, for cold diffusion (Bansal et al. 2022, section 4).

A degradation is a function

    degrade(x_0, t) -> x_t            or, where it is random,            degrade(key, x_0, t) -> x_t

of images x_0 [B, H, W, C], standardised, and times t int32 [B] in 0..T. D(x_0, 0) is x_0, to the last bit, and
x_T has next to nothing left of x_0 but, perhaps, a level a channel (`level`). A random one draws the same for the
same key at every t, so that x_{t-1} is x_t, less degraded. The ones here are linear in x_0:

    blur        diag(exp(-sigma_t^2 omega^2 / 2)) on the cosine transform     x_T = the mean of a channel
    pixelate    means over blocks that grow                                   x_T = the mean of a channel
    fade        (1 - t / T) x_0                                               x_T = 0, the mean of the data
    mask        a bump about a random pixel is taken out, wider and wider     x_T = 0, nearly

Matrices that depend on t or on the size of the images alone are computed on the host, in float64, once a size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dpm_jax.numerics import refuse
from dpm_jax.numerics.cosines import cosines
from dpm_jax.numerics.shapes import at

__all__ = ["Degradation", "blur", "fade", "mask", "pixelate"]

# (x_0 [B, H, W, C], t int32 [B]) -> x_t [B, H, W, C], or (key, x_0, t) -> x_t.
Degradation = Callable[..., Array]

# How many masks the paper puts on top of each other (section 4.2); with other T, each counts 50 / T times.
_NUM_MASKS = 50


def _check_range(num_timesteps: int, **widths: float) -> None:
    """Refuse T below 1, and widths that are not positive and in order, from small to large."""
    refuse.at_least_one(num_timesteps=num_timesteps)
    least, bound = 0.0, "0"
    for name, value in widths.items():
        if not (value > least or (bound != "0" and value == least)):
            raise ValueError(f"{name}: must be {'more than 0' if bound == '0' else f'at least {bound}'}, got {value}")
        least, bound = value, name


def blur(num_timesteps: int, *, sigma_final: float, sigma_first: float = 0.5) -> Degradation:
    """Gaussian blur, wider from step to step by the same factor (section 4.1).

    Heat spreading for a time sigma_t^2 / 2 with the edges insulated (Rissanen et al. 2022, whose schedule and first
    width it is): a blur of width s and then one of width r is one of width sqrt(s^2 + r^2), and means stay.
    `sigma_final` of the longer side leaves 0.7% of the slowest wave, twice that 3e-9.

    Args:
      num_timesteps: T.
      sigma_final: sigma_T, pixels.
      sigma_first: sigma_1, pixels (with T = 1, sigma_1 is `sigma_final`).

    Returns:
      (x_0, t) -> x_t, of any H and W.

    Raises:
      ValueError: if T < 1, or not 0 < sigma_first <= sigma_final.
    """
    _check_range(num_timesteps, sigma_first=sigma_first, sigma_final=sigma_final)
    back = np.arange(num_timesteps)[::-1] / max(num_timesteps - 1, 1)
    sigma = np.concatenate([[0.0], sigma_final * (sigma_first / sigma_final) ** back])
    variance = (sigma**2).astype(np.float32)

    def degrade(x_0: Array, t: Array) -> Array:
        height, width = x_0.shape[1:3]
        rows, columns = jnp.asarray(cosines(height)), jnp.asarray(cosines(width))
        wave = [np.pi * np.arange(size) / size for size in (height, width)]
        frequency2 = jnp.asarray((wave[0][:, None] ** 2 + wave[1] ** 2)[..., None], jnp.float32)
        # What the blur takes away, rather than what it leaves: nothing at t = 0, and nothing of the mean.
        lost = jnp.expm1(-0.5 * at(jnp.asarray(variance), t, x_0) * frequency2)
        spectrum = jnp.einsum("ih,jw,bhwc->bijc", rows, columns, x_0, precision="highest")
        return x_0 + jnp.einsum("ih,jw,bijc->bhwc", rows, columns, lost * spectrum, precision="highest")

    return degrade


def _sides(size: int) -> list[int]:
    """Sides of blocks from 1 to `size`, each a multiple of the last by a prime, small primes first."""
    sides, factor = [1], 2
    while sides[-1] < size:
        if size // sides[-1] % factor == 0:
            sides.append(sides[-1] * factor)
        else:
            factor += 1
    return sides


def _block_means(x: Array, height: int, width: int) -> Array:
    """Each pixel becomes the mean of its block: [B, H, W, C] -> [B, H, W, C]."""
    batch, rows, columns, channels = x.shape
    blocks = x.reshape(batch, rows // height, height, columns // width, width, channels)
    return jnp.broadcast_to(blocks.mean((2, 4), keepdims=True), blocks.shape).reshape(x.shape)


def pixelate(num_timesteps: int) -> Degradation:
    """Means over blocks that grow until one is the whole image (section 4.3, there without steps between sizes).

    Blocks double in side while that divides what is left of it, and then grow by its other factors: 32 goes 1, 2, 4,
    8, 16, 32 and 28 goes 1, 2, 4, 28. Where one side is through before the other, it stays. Between two sizes x_t goes
    linearly from the one image to the other, so that T is free; every size takes the same number of steps.

    Args:
      num_timesteps: T.

    Returns:
      (x_0, t) -> x_t, of any H and W.

    Raises:
      ValueError: if T < 1.
    """
    _check_range(num_timesteps)

    def degrade(x_0: Array, t: Array) -> Array:
        heights, widths = (_sides(size) for size in x_0.shape[1:3])
        last = max(len(heights), len(widths)) - 1
        sizes = [(heights[min(k, len(heights) - 1)], widths[min(k, len(widths) - 1)]) for k in range(last + 1)]
        # Integers until the division: whole positions are whole.
        position = np.arange(num_timesteps + 1) * last / num_timesteps
        share = np.maximum(0.0, 1 - np.abs(position - np.arange(last + 1)[:, None]))
        shares = jnp.asarray(share, jnp.float32)
        terms = (at(shares[k], t, x_0) * _block_means(x_0, *size) for k, size in enumerate(sizes))
        return functools.reduce(jnp.add, terms)

    return degrade


def fade(num_timesteps: int) -> Degradation:
    """x_t = (1 - t / T) x_0: to the mean of the data, which is 0 where they are standardised.

    The one degradation without structure, to compare with: x_T says nothing at all.

    Args:
      num_timesteps: T.

    Returns:
      (x_0, t) -> x_t.

    Raises:
      ValueError: if T < 1.
    """
    _check_range(num_timesteps)
    rest = (np.arange(num_timesteps + 1)[::-1] / num_timesteps).astype(np.float32)
    return lambda x_0, t: at(jnp.asarray(rest), t, x_0) * x_0


def mask(num_timesteps: int, *, first: float = 0.03, final: float = 1.0) -> Degradation:
    """Inpainting: masks with a Gaussian hole about a random pixel, ever wider, one on top of the other (section 4.2).

        x_t = x_0 prod_{i <= t} (1 - exp(-d^2 / 2 w_i^2))^{50 / T},    w_i = first + (final - first) i / T

    d the distance from the centre, uniform over the pixels. The paper's are T = 50 masks with widths of 1 to 6
    pixels, which leave the far corners as they are; these leave 1% of them, on average less.

    A table of T + 1 images is kept in the program: 4 MB for T = 1000 and 32 x 32.

    Args:
      num_timesteps: T.
      first: width that the holes grow from, as a share of the longer side.
      final: w_T, likewise.

    Returns:
      (key, x_0, t) -> x_t: an example's centre depends on the key and its place in the batch.

    Raises:
      ValueError: if T < 1, or not 0 < first <= final.
    """
    _check_range(num_timesteps, first=first, final=final)

    @functools.cache
    def table(height: int, width: int) -> np.ndarray:
        """Return the share of a pixel left at t, [T + 1, H, W], by its rows and columns from the centre."""
        total = np.zeros((height, width))
        left = np.ones((num_timesteps + 1, height, width), np.float32)
        distance2 = np.arange(height)[:, None] ** 2 + np.arange(width) ** 2
        for i in range(1, num_timesteps + 1):
            hole = max(height, width) * (first + (final - first) * i / num_timesteps)
            with np.errstate(divide="ignore"):  # log 0, at the centre
                total += _NUM_MASKS / num_timesteps * np.log1p(-np.exp(-distance2 / (2 * hole**2)))
            left[i] = np.exp(total)
        return left

    def degrade(key: Array, x_0: Array, t: Array) -> Array:
        batch, height, width, _ = x_0.shape
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(batch))
        centre = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, jnp.array([height, width])))(keys)
        row, column = (
            jnp.abs(jnp.arange(size)[None] - centre[:, axis, None]) for axis, size in enumerate((height, width))
        )
        left = jnp.asarray(table(height, width))
        return x_0 * left[t[:, None, None], row[:, :, None], column[:, None, :]][..., None]

    return degrade

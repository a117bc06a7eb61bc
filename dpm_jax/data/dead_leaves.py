"""Dead leaves: opaque discs of every size that fell on each other, the simplest images with edges and scales.

    p(r) ~ r^-3 on [r_min, r_max]      radius, in pixels; the power at which the law has no scale
    centre uniform in the plane        so the images are stationary
    intensity uniform in 0..255        of each leaf and channel by itself
    a pixel shows the topmost leaf that covers its centre

(Lee, Mumford and Huang 2001; as test data for generative models, Sohl-Dickstein et al. 2015,
after Theis, Hosseini and Bethge 2012.) Two pixels d apart show the same leaf with probability

    gamma(d) / (2 gamma(0) - gamma(d)),   gamma(d) = E_r area of {two discs of radius r, centres d apart, meet},

which is also the correlation of their values.

Leaves are drawn from the top down, until no pixel is bare. Leaves below are hidden, so this is an exact sample
of the infinite pile (Kendall and Thoennes 1999). Leaves that cannot touch the image are not drawn: with
l = size - 1 between the outermost pixel centres, a leaf of radius r can where its centre is in a square
of side l + 2 r, so among those that can

    p(r) ~ r^-3 (l + 2 r)^2 = l^2 r^-3 + 4 l r^-2 + 4 r^-1,

a mixture of three power laws, with the centre uniform in the square given r.
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from dpm_jax.numerics import refuse

__all__ = ["mean_and_std", "sample"]

# Leaves laid in one pass over the images; more would be laid in vain at the end.
_BLOCK = 32
_BARE = -1


def _radius(which: Array, u: Array, size: int, r_min: float, r_max: float) -> Array:
    """Radius of a leaf that can touch the image, from two uniforms in [0, 1): which power law, and where in it."""
    side = size - 1.0
    weights = (
        side**2 * (r_min**-2 - r_max**-2) / 2,
        4 * side * (1 / r_min - 1 / r_max),
        4 * math.log(r_max / r_min),
    )
    total = sum(weights)
    ratio = r_min / r_max
    cubic = r_min / jnp.sqrt(1 - u * (1 - ratio**2))
    square = r_min / (1 - u * (1 - ratio))
    inverse = r_min * jnp.exp(u * -math.log(ratio))
    first, second = weights[0] / total, (weights[0] + weights[1]) / total
    return jnp.where(which < first, cubic, jnp.where(which < second, square, inverse))


@partial(jax.jit, static_argnames=("num", "size", "channels", "r_min", "r_max"))
def _pile(key: Array, num: int, size: int, channels: int, r_min: float, r_max: float) -> Array:
    """int32 [num, channels, size, size]; a pixel that no leaf covered would be `_BARE`."""
    pixel = jnp.arange(size, dtype=jnp.float32)
    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(num))

    def leaves(key: Array) -> tuple[Array, Array, Array]:
        """Per image: squared x distance [block, size], r^2 less squared y distance, intensities [block, channels]."""
        place_key, value_key = jax.random.split(key)
        which, u, x, y = jax.random.uniform(place_key, (4, _BLOCK))
        r = _radius(which, u, size, r_min, r_max)
        # Centres from -r to size - 1 + r.
        x, y = ((size - 1 + 2 * r) * v - r for v in (x, y))
        across = (pixel - x[:, None]) ** 2
        down = (r**2)[:, None] - (pixel - y[:, None]) ** 2
        return across, down, jax.random.bits(value_key, (_BLOCK, channels), jnp.uint8).astype(jnp.int32)

    def lay(state: tuple[Array, Array]) -> tuple[Array, Array]:
        block, image = state
        across, down, value = jax.vmap(lambda key: leaves(jax.random.fold_in(key, block)))(keys)
        below = jnp.full_like(image, _BARE)
        # From the bottom of the block to its top, written out so that it is one pass over the pixels.
        for leaf in reversed(range(_BLOCK)):
            covered = across[:, leaf, None, None, :] <= down[:, leaf, None, :, None]
            below = jnp.where(covered, value[:, leaf, :, None, None], below)
        return block + 1, jnp.where(image == _BARE, below, image)

    def any_bare(state: tuple[Array, Array]) -> Array:
        # A pixel is bare in all channels or in none.
        return (state[1][:, 0] == _BARE).any()

    bare = jnp.full((num, channels, size, size), _BARE, jnp.int32)
    return jax.lax.while_loop(any_bare, lay, (jnp.int32(0), bare))[1]


def sample(key: Array, num: int, *, size: int, channels: int = 1, r_min: float, r_max: float) -> Array:
    """`num` images, [num, size, size, channels] uint8; image i depends on the key and i alone.

    The work per image grows as size^2 (size / r_min)^2.

    Args:
      key: PRNG key.
      num: how many, at least 1.
      size: height and width, in pixels.
      channels: values a pixel; a leaf's are independent.
      r_min: least radius, in pixels.
      r_max: greatest radius, in pixels.

    Raises:
      ValueError: unless num, size and channels are at least 1 and 0 < r_min < r_max < infinity.
    """
    refuse.at_least_one(num=num, size=size, channels=channels)
    if not 0 < r_min < math.inf:
        raise ValueError(f"r_min: must be positive and finite, in pixels, got {r_min}")
    if not r_min < r_max < math.inf:
        raise ValueError(f"r_max: must be finite and greater than r_min = {r_min}, in pixels, got {r_max}")
    image = _pile(key, num, size, channels, float(r_min), float(r_max))
    return jnp.moveaxis(image, 1, -1).astype(jnp.uint8)


def mean_and_std() -> tuple[float, float]:
    """Mean and standard deviation of a pixel after dequantisation, when it is uniform on [0, 256)."""
    return 128.0, 256 / math.sqrt(12)

"""Convolutions with stride 1 and 'SAME' padding whose gradients are quick on CPUs too.

XLA on CPU has one quick convolution: NHWC images, an HWIO kernel, no reversal, small window.
Both stock gradients take other forms, and inside `lax.while_loop` and `lax.scan`, where train
steps run, nothing turns them into the quick one. Here the input gradient is written in the
quick form, and the weight gradient, like convolutions of many channels, as matrix products of
a few images at a time. Accelerators keep the stock convolution and its gradients.

The gradients are traced after the forward pass, when a context around that (`jax.default_matmul_precision`) has ended:
so the precision is an argument, and the gradients have that of the forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from dpm_jax.numerics.bilinear import bilinear

__all__ = ["Conv", "conv"]

# Numbers in the matrices of one block: 2 MiB of float32, what the cores' own caches hold.
_BLOCK = 2**19
# From here on, matrix products beat the quick convolution: they use all cores, and it uses one.
_MANY_CHANNELS = 32
# Up to here, all rows of a window go side by side too.
_FEW_CHANNELS = 4


# What `precision` of a product may be, in JAX's words; None is the backend's own choice.
Precision = str | None


def _stock(x: Array, kernel: Array, precision: Precision = None) -> Array:
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout, precision=precision)


def _stock_input_gradient(kernel: Array, g: Array, precision: Precision) -> Array:
    x = jax.ShapeDtypeStruct((*g.shape[:3], kernel.shape[2]), g.dtype)
    dx: Array = jax.linear_transpose(lambda x: _stock(x, kernel, precision), x)(g)[0]
    return dx


def _stock_weight_gradient(x: Array, g: Array, size: int, precision: Precision) -> Array:
    kernel = jax.ShapeDtypeStruct((size, size, x.shape[3], g.shape[3]), x.dtype)
    dkernel: Array = jax.linear_transpose(lambda kernel: _stock(x, kernel, precision), kernel)(g)[0]
    return dkernel


def _columns(x: Array, size: int) -> Array:
    """Pad with zeros, and put the `size` pixels of a row that a window covers side by side.

    [B, H, W, channels] -> [B, H + size - 1, W, size * channels]; a window's rows are slices of it.
    """
    p, width = size // 2, x.shape[2]
    x = jnp.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))
    return jnp.concatenate([x[:, :, j : j + width] for j in range(size)], -1)


def _map_blocks(f: Callable[..., Array], channels: int, *images: Array) -> Array:
    """f of each block of the batch, [blocks, ...]; block i has the images i, i + blocks, ...

    The number of blocks is such that `channels` numbers a pixel stay in cache. The stride leaves a batch that is
    split over devices where it is.
    """
    batch, height, width, _ = images[0].shape
    least = -(-batch // max(1, _BLOCK // (height * width * channels)))
    if least <= 1:
        return f(*images)[None]
    blocks = next((n for n in range(least, 2 * least) if batch % n == 0), least)
    # Images of zeros, where the batch has no such divisor.
    images = tuple(jnp.pad(a, ((0, -batch % blocks), (0, 0), (0, 0), (0, 0))) for a in images)
    split = [a.reshape(-1, blocks, *a.shape[1:]) for a in images]
    every: Array = lax.map(
        lambda i: f(*(lax.dynamic_index_in_dim(a, i, 1, keepdims=False) for a in split)), jnp.arange(blocks)
    )
    return every


def _product(a: Array, b: Array, axis: int) -> Array:
    """Sum of a and b over `axis` of a and the first axis of b, in float32."""
    return lax.dot_general(a, b, (((axis,), (0,)), ((), ())), preferred_element_type=jnp.float32)


def _cpu(x: Array, kernel: Array) -> Array:
    size, _, inputs, outputs = kernel.shape
    if min(inputs, outputs) < _MANY_CHANNELS:
        return _stock(x, kernel)

    def block(x: Array) -> Array:
        batch, height, width, _ = x.shape
        columns = _columns(x, size)
        rows = [columns[:, i : i + height].reshape(-1, size * inputs) for i in range(size)]
        y: Array = sum((_product(row, kernel[i].reshape(-1, outputs), 1) for i, row in enumerate(rows)), jnp.float32(0))
        return y.reshape(batch, height, width, outputs).astype(x.dtype)

    blocks = _map_blocks(block, size * inputs, x)
    return blocks.swapaxes(0, 1).reshape(-1, *blocks.shape[2:])[: x.shape[0]]


def _cpu_input_gradient(kernel: Array, g: Array) -> Array:
    return _cpu(g, kernel[::-1, ::-1].swapaxes(2, 3))


def _cpu_weight_gradient(x: Array, g: Array, size: int) -> Array:
    if x.shape[3] > g.shape[3]:
        # x moves against g as g moves against x the other way.
        return _shifted_products(x, g, size)[::-1, ::-1].astype(x.dtype)
    return _shifted_products(g, x, size).swapaxes(2, 3).astype(x.dtype)


def _shifted_products(still: Array, moving: Array, size: int) -> Array:
    """[i, j, a, b] = sum over images and pixels of still[h, w, a] padded moving[h + i, w + j, b].

    One product for each row i of the window, with its columns j side by side, since products
    with few columns are slow; where there are very few, one product for all rows.
    """
    a, b = still.shape[3], moving.shape[3]
    rows_too = b <= _FEW_CHANNELS

    def block(still: Array, moving: Array) -> Array:
        height = still.shape[1]
        still = still.reshape(-1, a)
        columns = _columns(moving, size)
        rows = [columns[:, i : i + height] for i in range(size)]
        if rows_too:
            return _product(still, jnp.concatenate(rows, -1).reshape(-1, size * size * b), 0)
        return jnp.concatenate([_product(still, row.reshape(-1, size * b), 0) for row in rows], -1)

    total = _map_blocks(block, size * b * (size if rows_too else 1), still, moving).sum(0)
    return total.reshape(a, size, size, b).transpose(1, 2, 0, 3)


# A convolution and its two gradients are each linear in both of their arguments, and transposes of each other, so that
# derivatives of any order are computed in their quick forms.


def _conv(x: Array, kernel: Array, precision: Precision) -> Array:
    size = kernel.shape[0]
    return bilinear(
        _on_cpu_or(_cpu, partial(_stock, precision=precision)),
        lambda g, kernel: _input_gradient(kernel, g, precision),
        lambda g, x: _weight_gradient(x, g, size, precision),
        x,
        kernel,
    )


def _input_gradient(kernel: Array, g: Array, precision: Precision) -> Array:
    size = kernel.shape[0]
    return bilinear(
        _on_cpu_or(_cpu_input_gradient, partial(_stock_input_gradient, precision=precision)),
        lambda dx, g: _weight_gradient(dx, g, size, precision),
        lambda dx, kernel: _conv(dx, kernel, precision),
        kernel,
        g,
    )


def _weight_gradient(x: Array, g: Array, size: int, precision: Precision) -> Array:
    return bilinear(
        _on_cpu_or(
            partial(_cpu_weight_gradient, size=size), partial(_stock_weight_gradient, size=size, precision=precision)
        ),
        lambda dkernel, g: _input_gradient(dkernel, g, precision),
        lambda dkernel, x: _conv(x, dkernel, precision),
        x,
        g,
    )


def _on_cpu_or(cpu: Callable[..., Array], default: Callable[..., Array]) -> Callable[..., Array]:
    return lambda *args: lax.platform_dependent(*args, cpu=cpu, default=default)


def conv(x: Array, kernel: Array, precision: Precision = None) -> Array:
    """Convolve (cross-correlate) images, stride 1, 'SAME' padding with zeros; differentiable forward and backward.

    Args:
      x: [B, H, W, inputs], float32 or bfloat16.
      kernel: [k, k, inputs, outputs], k odd; cast to the dtype of x.
      precision: of the products on accelerators, here and in the gradients: "highest", "high" or "default"; None for
        that of the context `jax.default_matmul_precision` that the call is in.

    Returns:
      [B, H, W, outputs], dtype of x.

    Raises:
      ValueError: a shape is not one of these.
    """
    if x.ndim != 4:
        raise ValueError(f"conv: x has shape {x.shape}; give [B, H, W, inputs]")
    size = kernel.shape[0] if kernel.ndim == 4 else 0
    if size % 2 == 0 or kernel.shape[:3] != (size, size, x.shape[3]):
        raise ValueError(f"conv: kernel has shape {kernel.shape}; give [k, k, {x.shape[3]}, outputs], k odd")
    kernel = kernel.astype(x.dtype)
    precision = precision or jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    if size == 1:
        return lax.dot_general(x, kernel[0, 0], (((3,), (0,)), ((), ())), precision=precision)
    y: Array = _conv(x, kernel, precision)
    return y


class Conv(nn.Module):
    """`conv` with parameters `kernel` [k, k, inputs, features] and `bias` [features], float32.

    Called with x [B, H, W, inputs]; returns [B, H, W, features].

    Attributes:
      features: outputs a pixel.
      kernel_size: k, odd.
      use_bias: whether to add a bias.
      kernel_init: of the kernel. The bias is zero at initialisation.
      dtype: of the computation and the result; that of x where None.
    """

    features: int
    kernel_size: int = 3
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: jnp.dtype | type | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if self.dtype is not None:
            x = x.astype(self.dtype)
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        y = conv(x, self.param("kernel", self.kernel_init, shape, jnp.float32))
        if self.use_bias:
            # In float32: its gradient is a sum over all pixels, which bfloat16 numbers have too few bits for.
            y = (y + self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)).astype(y.dtype)
        return y

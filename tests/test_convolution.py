"""Convolutions and their gradients, against XLA's own and against loops in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax
from jax.test_util import check_grads

from dpm_jax.nets import convolution
from dpm_jax.nets.convolution import Conv, conv

# Batch, height, width, inputs, outputs, size of the kernel.
SHAPES = [
    (1, 1, 1, 1, 1, 3),
    (2, 5, 4, 3, 2, 3),
    (3, 2, 6, 5, 6, 5),
    (1, 3, 2, 6, 5, 7),
    (2, 3, 4, 3, 2, 1),
    (2, 4, 3, 32, 33, 3),
    (1, 3, 2, 33, 32, 5),
]
# Batches cut into blocks, with a remainder and without.
LARGE = [(6, 28, 28, 64, 32, 3), (7, 28, 27, 32, 64, 3)]


def draw(batch, height, width, inputs, outputs, size, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (batch, height, width, inputs), dtype)
    kernel = jax.random.normal(keys[1], (size, size, inputs, outputs), dtype)
    return x, kernel, jax.random.normal(keys[2], (batch, height, width, outputs), dtype)


def loops(x, kernel, g):
    """Result, gradient in x, gradient in the kernel, in float64."""
    x, kernel, g = (np.asarray(a, float) for a in (x, kernel, g))
    p = kernel.shape[0] // 2
    y, dx, dkernel = np.zeros(g.shape), np.zeros(x.shape), np.zeros(kernel.shape)
    for h, w in np.ndindex(*x.shape[1:3]):
        for i, j in np.ndindex(*kernel.shape[:2]):
            u, v = h + i - p, w + j - p
            if 0 <= u < x.shape[1] and 0 <= v < x.shape[2]:
                y[:, h, w] += x[:, u, v] @ kernel[i, j]
                dx[:, u, v] += g[:, h, w] @ kernel[i, j].T
                dkernel[i, j] += x[:, u, v].T @ g[:, h, w]
    return y, dx, dkernel


def with_gradients(f, x, kernel, g):
    y, pull = jax.vjp(f, x, kernel)
    return y, *pull(g)


def assert_close(actual, expected, tolerance=2e-6):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, float), np.asarray(b, float)
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1e-6, np.abs(b).max()))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_result_and_gradients_are_the_loops(shape):
    x, kernel, g = draw(*shape)
    expected = loops(x, kernel, g)
    assert_close(jax.jit(partial(with_gradients, conv))(x, kernel, g), expected, 1e-5)


@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_blocks_of_the_batch_make_no_difference(shape):
    x, kernel, g = draw(*shape)
    ours, stock = (jax.jit(partial(with_gradients, f))(x, kernel, g) for f in (conv, convolution._stock))
    assert_close(ours, stock, 1e-5)


def test_finite_differences():
    x, kernel, _ = draw(2, 3, 4, 2, 3, 3)
    check_grads(jax.jit(conv), (x, kernel), order=2, modes=["fwd", "rev"], atol=0.05, rtol=0.05)


@pytest.mark.parametrize("channels", [3, 32])
def test_forward_mode_is_reverse_mode(channels):
    """Whole derivatives, by columns and by rows, of a convolution and of the gradient of one."""
    x, kernel, _ = draw(1, 2, 3, channels, channels, 3)
    few = x[..., :2]

    def of(x):
        return conv(jnp.concatenate([x, x[..., :1].repeat(channels - 2, -1)], -1), kernel)[..., :2]

    def slope(x):
        return jax.grad(lambda x: (of(x) ** 3).sum())(x)

    for f in (of, slope):
        forward, reverse = jax.jit(jax.jacfwd(f))(few), jax.jit(jax.jacrev(f))(few)
        assert_close(forward, reverse, 1e-5)
        assert np.abs(forward).max() > 0.1


@pytest.mark.parametrize(("axes", "channels"), [((0, None), 3), ((None, 0), 3), ((0, 0), 32)])
def test_vmap(axes, channels):
    x, kernel, _ = draw(2, 4, 5, channels, channels, 3)
    x, kernel = (a if axis is None else jnp.stack([a, 2 * a, -a]) for a, axis in zip((x, kernel), axes, strict=True))

    def gradients(f):
        def of_one(x, kernel):
            return jax.grad(lambda x, kernel: (f(x, kernel) ** 2).sum(), (0, 1))(x, kernel)

        return jax.jit(jax.vmap(of_one, axes))(x, kernel)

    assert_close(gradients(conv), gradients(convolution._stock), 1e-5)


def test_scan_while_loop_and_checkpoint():
    x, kernel, _ = draw(2, 4, 5, 3, 3, 3)
    kernel = kernel / 10

    def descend(f):
        def loss(kernel):
            layer = jax.checkpoint(lambda h: jnp.tanh(f(h, kernel)))
            h, _ = lax.scan(lambda h, _: (layer(h), None), x, None, length=3)
            return (h**2).sum()

        def step(state):
            return state[0] + 1, state[1] - 0.01 * jax.grad(loss)(state[1])

        return jax.jit(lambda kernel: lax.while_loop(lambda state: state[0] < 4, step, (0, kernel)))(kernel)[1]

    assert_close(descend(conv), descend(convolution._stock), 1e-5)


@pytest.mark.parametrize("channels", [3, 32])
def test_bfloat16_is_kept(channels):
    x, kernel, g = draw(2, 6, 5, channels, channels, 3, jnp.bfloat16)
    ours = jax.jit(partial(with_gradients, conv))(x, kernel, g)
    assert {a.dtype for a in ours} == {jnp.dtype(jnp.bfloat16)}
    assert_close(ours, loops(x, kernel, g), 0.02)
    y, dx, dkernel = with_gradients(conv, x, kernel.astype(jnp.float32), g)
    assert (y.dtype, dx.dtype, dkernel.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)


def test_stock_gradients_are_the_loops():
    x, kernel, g = draw(2, 5, 4, 3, 2, 3)
    _, dx, dkernel = loops(x, kernel, g)
    assert_close(convolution._stock_input_gradient(kernel, g, "highest"), dx, 1e-5)
    assert_close(convolution._stock_weight_gradient(x, g, 3, "highest"), dkernel, 1e-5)


@pytest.mark.parametrize("channels", [4, 32])
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerators_run_three_stock_convolutions(platform, channels):
    a = draw(2, 4, 5, channels, channels, 3)
    text = export.export(jax.jit(partial(with_gradients, conv)), platforms=[platform])(*a).mlir_module()
    assert text.count("stablehlo.convolution") == 3
    assert "stablehlo.dot_general" not in text
    here = export.export(jax.jit(partial(with_gradients, conv)), platforms=["cpu"])(*a).mlir_module()
    assert here.count("stablehlo.convolution") == (2 if channels < 32 else 0)
    assert "stablehlo.dot_general" in here


def test_one_by_one_is_a_product():
    x, kernel, _ = draw(2, 3, 4, 5, 6, 1)
    text = jax.jit(conv).lower(x, kernel).as_text()
    assert "stablehlo.dot_general" in text
    assert "stablehlo.convolution" not in text


@pytest.mark.parametrize(
    ("x", "kernel"),
    [
        ((4, 4, 3), (3, 3, 3, 2)),
        ((1, 4, 4, 3), (3, 3, 2, 2)),
        ((1, 4, 4, 3), (2, 2, 3, 2)),
        ((1, 4, 4, 3), (3, 1, 3, 2)),
        ((1, 4, 4, 3), (3, 3, 2)),
    ],
)
def test_bad_shapes_are_refused(x, kernel):
    with pytest.raises(ValueError, match=r"conv: .* has shape"):
        conv(jnp.ones(x), jnp.ones(kernel))


def test_module():
    x = draw(2, 4, 5, 3, 2, 3)[0]
    params = Conv(2).init(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, params) == {"params": {"kernel": (3, 3, 3, 2), "bias": (2,)}}
    params = jax.tree.map(lambda a: a + 1, params)
    p = params["params"]
    assert_close(Conv(2).apply(params, x), conv(x, p["kernel"]) + p["bias"])
    half = Conv(2, kernel_size=5, use_bias=False, dtype=jnp.bfloat16)
    y, params = half.init_with_output(jax.random.key(0), x)
    assert y.dtype == jnp.bfloat16
    assert jax.tree.map(lambda a: (a.shape, a.dtype), params) == {
        "params": {"kernel": ((5, 5, 3, 2), jnp.dtype("float32"))}
    }

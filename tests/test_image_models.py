"""Networks for images: the multiscale layer against a plain loop, where outputs can see, and how time enters."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpm_jax.nets import MultiscaleNet, UNet, resampling
from dpm_jax.nets.dense import Dense
from dpm_jax.nets.multiscale import MultiscaleConv
from dpm_jax.nets.resampling import depth_to_space, mean_pool, space_to_depth, upsample
from dpm_jax.nets.unet import _MultiHead
from dpm_jax.schedules import bump_basis

KEY = jax.random.key(0)
T = 20


def clock(t):
    return t / T


def randomized(params, scale=0.2):
    """Parameters that leave nothing at zero."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return jax.tree.unflatten(
        tree, [leaf + scale * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    )


def multiscale(**changes):
    return MultiscaleNet(
        **{"num_outputs": 2, "clock": clock, "features": 6, "num_layers": 2, "pointwise_features": 5, **changes}
    )


NETS = {
    "paper": multiscale(num_scales=3, activation="softplus_tanh", dense_layers=2, dense_features=8),
    "released": multiscale(),
    "dense": multiscale(num_layers=0, dense_layers=2, dense_features=8),
    "film": multiscale(film=True, dense_layers=1, dense_features=8),
    "unet": UNet(2, clock, features=(4, 8), num_groups=2, num_heads=2),
    "patches": UNet(2, clock, features=(4, 8), num_groups=3, patch_size=2, attention=False),
}


@pytest.mark.parametrize("name", NETS)
def test_outputs_begin_at_zero_have_their_shape_and_follow_time(name):
    net = NETS[name]
    x = jax.random.normal(KEY, (3, 8, 8, 1))
    t = jnp.asarray([1, 7, T])
    apply = jax.jit(net.apply)
    params = jax.jit(net.init)(KEY, x, t)
    out = apply(params, x, t)
    assert out.shape == (3, 8, 8, 2)
    assert out.dtype == jnp.float32
    np.testing.assert_array_equal(out, 0)
    params = randomized(params)
    out = apply(params, x, t)
    assert np.isfinite(out).all()
    assert np.abs(out - apply(params, x, t + jnp.asarray([1, 1, -5]))).max() > 1e-3
    # No example sees another.
    np.testing.assert_allclose(apply(params, x[1:2], t[1:2])[0], out[1], rtol=1e-4, atol=1e-5)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("name", ["paper", "unet"])
def test_bfloat16_keeps_parameters_and_outputs_in_float32(name):
    net = NETS[name].clone(dtype=jnp.bfloat16)
    x, t = jax.random.normal(KEY, (2, 8, 8, 1)), jnp.asarray([3, 9])
    params = randomized(jax.jit(net.init)(KEY, x, t))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    out, exact = jax.jit(net.apply)(params, x, t), jax.jit(NETS[name].apply)(params, x, t)
    assert out.dtype == jnp.float32
    difference = np.abs(out - exact)
    assert 0 < difference.max() < 0.1 * np.abs(exact).max()
    grads = jax.jit(jax.grad(lambda p: net.apply(p, x, t).sum()))(params)
    assert all(g.dtype == jnp.float32 and np.isfinite(g).all() for g in jax.tree.leaves(grads))


@pytest.mark.parametrize(
    ("net", "size"),
    [(NETS["paper"], 8), (multiscale(num_scales=3, film=True), 32), (NETS["unet"], 32)],
    ids=["paper", "film", "unet"],
)
def test_bfloat16_sums_in_float32(net, size):
    # Gradients of biases, and of what time adds, are sums over pixels: in bfloat16 they stop growing.
    x, t = jax.random.normal(KEY, (16, size, size, 1)), jnp.arange(16) + 1
    params = randomized(jax.jit(net.init)(KEY, x, t))

    def gradient(net):
        return jax.jit(jax.grad(lambda p: (net.apply(p, x, t) ** 2).sum()))(params)

    ours, exact = gradient(net.clone(dtype=jnp.bfloat16)), gradient(net)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(exact), strict=True):
        # That of a key's bias is zero: it adds the same to all that the softmax compares.
        if "['key']['bias']" not in jax.tree_util.keystr(path):
            assert np.linalg.norm(a - b) < 0.05 * np.linalg.norm(b), jax.tree_util.keystr(path)


@pytest.mark.parametrize(
    ("ours", "flax"),
    [
        (Dense(6), nn.Dense(6)),
        (Dense((2, 3)), nn.DenseGeneral((2, 3))),
        (_MultiHead(2, jnp.float32), nn.MultiHeadDotProductAttention(2, out_kernel_init=nn.initializers.zeros)),
    ],
    ids=["dense", "general", "attention"],
)
def test_float32_layers_are_flaxs(ours, flax):
    h = jax.random.normal(KEY, (3, 5, 4))
    params = flax.init(KEY, h)
    jax.tree.map(np.testing.assert_array_equal, ours.init(KEY, h), params)
    params = randomized(params)
    np.testing.assert_array_equal(ours.apply(params, h), flax.apply(params, h))


def test_multiscale_layer_is_a_plain_loop():
    height, width, features, scales = 8, 12, 3, 3
    layer = MultiscaleConv(features, scales, kernel_size=3)
    x = np.asarray(jax.random.normal(KEY, (2, height, width, 2)))
    params = randomized(layer.init(KEY, x))
    kernels = [np.asarray(params["params"][f"Conv_{s}"]["kernel"], np.float64) for s in range(scales)]
    expected = np.zeros((2, height, width, features)) + np.asarray(params["params"]["Conv_0"]["bias"], np.float64)
    for s, kernel in enumerate(kernels):
        f = 2**s
        pooled = np.zeros((2, height // f, width // f, 2))
        for i in range(height):
            for j in range(width):
                pooled[:, i // f, j // f] += x[:, i, j] / f**2
        for i in range(height):
            for j in range(width):
                for a in range(3):
                    for b in range(3):
                        row, column = i // f + a - 1, j // f + b - 1
                        if 0 <= row < height // f and 0 <= column < width // f:
                            expected[:, i, j] += pooled[:, row, column] @ kernel[a, b]
    np.testing.assert_allclose(layer.apply(params, x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["released", "paper_convolutions"])
def test_convolutions_move_with_the_image(name):
    net = multiscale() if name == "released" else multiscale(num_scales=3, activation="softplus_tanh")
    coarsest = 1 if name == "released" else 4
    # Room enough that the borders are out of sight of the middle.
    x = np.zeros((1, 64, 64, 1), np.float32)
    x[:, 28:36, 28:36] = np.asarray(jax.random.normal(KEY, (8, 8, 1)))
    t = jnp.asarray([5])
    params = randomized(net.init(KEY, x, t))
    out = np.asarray(net.apply(params, x, t))
    shift = 2 * coarsest
    moved = np.asarray(net.apply(params, np.roll(x, (shift, -shift), (1, 2)), t))
    margin = 14 * coarsest // 2
    inside = slice(margin, 64 - margin)
    np.testing.assert_allclose(
        moved[:, inside, inside], np.roll(out, (shift, -shift), (1, 2))[:, inside, inside], rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize(("layers", "kernel_size", "scales"), [(1, 3, 1), (3, 3, 1), (2, 5, 1), (1, 3, 2), (2, 3, 3)])
def test_receptive_field(layers, kernel_size, scales):
    net = multiscale(num_layers=layers, kernel_size=kernel_size, num_scales=scales)
    x, t = jax.random.normal(KEY, (1, 64, 64, 1)), jnp.asarray([5])
    params = randomized(net.init(KEY, x, t))
    row, column = 33, 30
    seen = np.abs(jax.grad(lambda x: (net.apply(params, x, t)[0, row, column] ** 2).sum())(x))[0, ..., 0] > 0
    # On the grid of the coarsest scale each layer sees kernel_size // 2 cells further.
    rows, columns = {row}, {column}
    for _ in range(layers):
        rows, columns = (
            {
                pixel
                for place in places
                for s in range(scales)
                for cell in range(place // 2**s - kernel_size // 2, place // 2**s + kernel_size // 2 + 1)
                for pixel in range(cell * 2**s, (cell + 1) * 2**s)
            }
            for places in (rows, columns)
        )
    assert set(np.flatnonzero(seen.any(1))) == rows & set(range(64))
    assert set(np.flatnonzero(seen.any(0))) == columns & set(range(64))


def test_convolutional_nets_take_other_sizes_and_dense_ones_do_not():
    t = jnp.asarray([5])
    for name in ("released", "patches"):
        net = NETS[name]
        params = net.init(KEY, jnp.zeros((1, 8, 8, 1)), t)
        assert net.apply(params, jnp.zeros((1, 24, 16, 1)), t).shape == (1, 24, 16, 2)
    net = NETS["dense"]
    params = net.init(KEY, jnp.zeros((1, 8, 8, 1)), t)
    with pytest.raises(Exception, match="shape"):
        net.apply(params, jnp.zeros((1, 16, 16, 1)), t)


def test_the_readout_is_a_sum_over_bumps_that_sum_to_one():
    positions = jnp.linspace(0, 1, 101)
    bumps = np.asarray(bump_basis(positions, 10), np.float64)
    np.testing.assert_allclose(bumps.sum(-1), 1, rtol=1e-6)
    assert (bumps >= 0).all()
    net = multiscale(num_layers=1, pointwise_layers=0)
    x, t = jax.random.normal(KEY, (2, 4, 4, 1)), jnp.asarray([4, 13])
    params = randomized(net.init(KEY, x, t))["params"]
    hidden = MultiscaleConv(6).apply({"params": params["MultiscaleConv_0"]}, x)
    hidden = np.asarray(jnp.where(hidden > 0, hidden, 0.05 * hidden), np.float64)
    weights, bias = (np.asarray(params["BumpReadout_0"][name], np.float64) for name in ("kernel", "bias"))
    expected = np.zeros((2, 4, 4, 2))
    for b in range(2):
        for j, g in enumerate(np.asarray(bump_basis(jnp.asarray(t[b] / T), 10), np.float64)):
            expected[b] += g * (hidden[b] @ weights[:, j] + bias[j])
    np.testing.assert_allclose(net.apply({"params": params}, x, t), expected, rtol=1e-4, atol=1e-5)


def test_resampling():
    x = np.asarray(jax.random.normal(KEY, (2, 6, 4, 3)))
    np.testing.assert_array_equal(depth_to_space(space_to_depth(x, 2), 2), x)
    assert space_to_depth(x, 2).shape == (2, 3, 2, 12)
    np.testing.assert_array_equal(space_to_depth(x, 2)[:, 1, 1, :3], x[:, 2, 2])
    np.testing.assert_allclose(mean_pool(upsample(x, 3), 3), x, rtol=1e-6)
    np.testing.assert_allclose(mean_pool(x, 2)[0, 0, 0], x[0, :2, :2].mean((0, 1)), rtol=1e-5)
    np.testing.assert_array_equal(upsample(x, 2)[0, 3, 2], x[0, 1, 1])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("what", ["mean", "squares"])
def test_resampling_on_tpus_is_that_on_cpus(what, factor, dtype):
    by_shape, by_kernel = (getattr(resampling, f"_{what}_by_{how}") for how in ("shape", "kernel"))
    x = jax.random.normal(KEY, (2, 6, 12, 3), dtype)
    (expected, transpose), (ours, ours_transposed) = (
        jax.vjp(lambda x: by(x, factor), x)  # noqa: B023
        for by in (by_shape, by_kernel)
    )
    assert ours.dtype == expected.dtype == dtype
    g = jax.random.normal(jax.random.key(1), ours.shape, dtype)
    tolerance = {"rtol": 1e-6 if dtype == jnp.float32 else 0.02, "atol": 1e-6 if dtype == jnp.float32 else 0.02}
    np.testing.assert_allclose(np.float32(ours), np.float32(expected), **tolerance)
    np.testing.assert_allclose(np.float32(ours_transposed(g)[0]), np.float32(transpose(g)[0]), **tolerance)
    if what == "squares":
        np.testing.assert_array_equal(ours, expected)
        # Sums over squares, too, have more bits than bfloat16 numbers: 289 ones would stay 256.
        ones = jnp.ones((1, 17, 17, 1), dtype)
        for by in (by_shape, by_kernel):
            (total,) = jax.vjp(lambda x: by(x, 17), jnp.zeros((1, 1, 1, 1), dtype))[1](ones)  # noqa: B023
            np.testing.assert_allclose(np.float32(total), 289, rtol=0.005)


def test_resampling_has_a_program_for_tpus():
    x = jnp.zeros((1, 4, 4, 2))
    for function in (mean_pool, upsample):
        traced = jax.jit(function, static_argnums=1).trace(x, 2)
        texts = {platform: traced.lower(lowering_platforms=(platform,)).as_text() for platform in ("tpu", "cpu")}
        assert {platform: "convolution" in text for platform, text in texts.items()} == {"tpu": True, "cpu": False}

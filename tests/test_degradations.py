"""Degradations of images: against scipy's cosine transform and numpy in float64; nested, linear, exact at t = 0."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
from hypothesis import given, settings
from hypothesis import strategies as st

from dpm_jax import cold, degradations

KEY = jax.random.key(0)
MAKERS = {
    "blur": lambda T: degradations.blur(T, sigma_final=20.0),
    "pixelate": degradations.pixelate,
    "fade": degradations.fade,
    "mask": degradations.mask,
}


def images(batch=4, height=8, width=12, channels=2, seed=0):
    x = np.random.default_rng(seed).standard_normal((batch, height, width, channels))
    return jnp.asarray(x, jnp.float32)


def every_time(degrade, x, T):
    """D(x, t) of one image [H, W, C] at t = 0..T."""
    t = jnp.arange(T + 1)
    at_time = lambda t: cold.keyed(degrade)(KEY, x[None], t[None])[0]  # noqa: E731
    return np.asarray(jax.jit(jax.vmap(at_time))(t))


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("T", [1, 7, 1000])
def test_nothing_is_lost_at_0_and_next_to_everything_at_the_end(name, T):
    x, degrade = images(), jax.jit(cold.keyed(MAKERS[name](T)))
    whole = degrade(KEY, x, jnp.zeros(4, jnp.int32))
    chex.assert_type(whole, jnp.float32)
    np.testing.assert_array_equal(whole, x)
    last = degrade(KEY, x, jnp.full(4, T))
    mean = x.mean((1, 2), keepdims=True) if name in ("blur", "pixelate") else 0.0
    np.testing.assert_allclose(last, jnp.broadcast_to(mean, x.shape), atol=0.05 if name == "mask" else 1e-5)


@pytest.mark.parametrize("name", MAKERS)
def test_jit_vmap_and_grad(name):
    degrade = MAKERS[name](10)
    keyed = jax.jit(cold.keyed(degrade))
    t = jnp.array([0, 1, 5, 10])
    x_t = keyed(KEY, images(), t)
    keyed(jax.random.key(1), images(seed=1), t[::-1])
    assert keyed._cache_size() == 1
    chex.assert_shape(x_t, (4, 8, 12, 2))
    chex.assert_tree_all_finite(jax.grad(lambda x: (keyed(KEY, x, t) ** 2).sum())(images()))
    if name != "mask":
        mapped = jax.vmap(degrade)(images()[:, None], t[:, None])[:, 0]
        np.testing.assert_allclose(mapped, x_t, rtol=1e-5, atol=1e-6)


@functools.cache
def jitted(name):
    return jax.jit(cold.keyed(MAKERS[name](10)))


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(sorted(MAKERS)), st.floats(-2, 2), st.integers(0, 100))
def test_linear_in_the_image(name, a, seed):
    degrade, t = jitted(name), jnp.array([0, 3, 7, 10])
    x, y = images(seed=seed), images(seed=seed + 1000)
    together = degrade(KEY, a * x + y, t)
    np.testing.assert_allclose(together, a * degrade(KEY, x, t) + degrade(KEY, y, t), atol=2e-5)


@pytest.mark.parametrize(("height", "width"), [(8, 12), (32, 32), (7, 5), (1, 9)])
def test_blur_is_the_heat_equation_on_the_cosine_transform(height, width):
    T, first, final = 6, 0.7, 9.0
    x = images(T + 1, height, width, 3)
    blurred = degradations.blur(T, sigma_first=first, sigma_final=final)(x, jnp.arange(T + 1))
    waves = (np.pi * np.arange(height) / height)[:, None] ** 2 + (np.pi * np.arange(width) / width) ** 2
    sigma = np.r_[0.0, np.geomspace(first, final, T)]
    gain = np.exp(-0.5 * sigma[:, None, None, None] ** 2 * waves[..., None])
    spectrum = scipy.fft.dctn(np.asarray(x, float), axes=(1, 2), norm="ortho")
    expected = scipy.fft.idctn(gain * spectrum, axes=(1, 2), norm="ortho")
    np.testing.assert_allclose(blurred, expected, atol=3e-6)
    np.testing.assert_allclose(blurred.mean((1, 2)), x.mean((1, 2)), atol=1e-6)


def test_blur_far_from_the_edges_is_a_gaussian():
    x = jnp.zeros((1, 41, 41, 1)).at[0, 20, 20, 0].set(1.0)
    blurred = np.asarray(degradations.blur(1, sigma_final=3.0)(x, jnp.array([1])))[0, ..., 0]
    offset = np.arange(41) - 20
    kernel = np.exp(-(offset**2) / 18) / np.sqrt(18 * np.pi)
    np.testing.assert_allclose(blurred, kernel[:, None] * kernel, atol=5e-7)


def test_blurs_add_up():
    """Widths s and r one after the other are a width of sqrt(s^2 + r^2)."""
    x, one = images(), jnp.ones(4, jnp.int32)
    blur = lambda sigma: lambda x: degradations.blur(1, sigma_first=sigma, sigma_final=sigma)(x, one)  # noqa: E731
    np.testing.assert_allclose(blur(2.0)(blur(1.5)(x)), blur(2.5)(x), atol=2e-6)


@pytest.mark.parametrize("name", ["blur", "pixelate", "fade"])
def test_variance_falls(name):
    states = every_time(MAKERS[name](50), images(1)[0], 50).astype(float)
    variance = states.var((1, 2))
    assert (np.diff(variance, axis=0) <= 1e-6).all()
    assert (variance[0] > 0.5).all()
    if name != "fade":
        np.testing.assert_allclose(states.mean((1, 2)), np.broadcast_to(states[0].mean((0, 1)), (51, 2)), atol=1e-6)


def test_pixelate_is_block_means_with_straight_lines_between():
    """8 x 12: blocks of 1 x 1, 2 x 2, 4 x 4, 8 x 12, three steps from each to the next."""
    T, x = 9, images(1)[0]
    blocks = []
    for height, width in ((1, 1), (2, 2), (4, 4), (8, 12)):
        block = np.asarray(x, float).copy()
        for i in range(0, 8, height):
            for j in range(0, 12, width):
                block[i : i + height, j : j + width] = block[i : i + height, j : j + width].mean((0, 1))
        blocks.append(block)
    states = every_time(degradations.pixelate(T), x, T)
    for t, state in enumerate(states):
        k, rest = divmod(t, 3)
        expected = blocks[k] if rest == 0 else blocks[k] * (1 - rest / 3) + blocks[k + 1] * rest / 3
        np.testing.assert_allclose(state, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "sides"), [(1, [1]), (32, [1, 2, 4, 8, 16, 32]), (28, [1, 2, 4, 28]), (45, [1, 3, 9, 45]), (7, [1, 7])]
)
def test_blocks_grow_from_a_pixel_to_the_image(size, sides):
    assert degradations._sides(size) == sides


@given(st.integers(1, 2000))
@settings(max_examples=50, deadline=None)
def test_every_block_is_made_of_whole_smaller_ones(size):
    sides = degradations._sides(size)
    assert sides[0] == 1
    assert sides[-1] == size
    assert all(b % a == 0 and b > a for a, b in itertools.pairwise(sides))


def test_fade_in_closed_form():
    x, t = images(), jnp.array([0, 1, 3, 4])
    np.testing.assert_allclose(degradations.fade(4)(x, t), x * (1 - t / 4)[:, None, None, None], rtol=1e-6)


def test_mask_is_a_product_of_gaussian_holes_about_one_pixel():
    """T = 50, where it is the paper's; the centre is the pixel lost at t = 1."""
    T, first, final = 50, 0.1, 0.5
    left = every_time(degradations.mask(T, first=first, final=final), jnp.ones((8, 12, 1)), T)[..., 0]
    ((row, column),) = np.argwhere(left[1] == 0)
    distance2 = (np.arange(8)[:, None] - row) ** 2 + (np.arange(12) - column) ** 2
    expected = np.ones((8, 12))
    for t in range(1, T + 1):
        width = 12 * (first + (final - first) * t / T)
        expected = expected * (1 - np.exp(-distance2 / (2 * width**2)))
        np.testing.assert_allclose(left[t], expected, atol=1e-6)


@pytest.mark.parametrize("T", [1, 10, 1000])
def test_masks_are_nested_and_leave_nothing(T):
    left = every_time(degradations.mask(T), jnp.ones((8, 8, 1)), T)
    assert (np.diff(left, axis=0) <= 0).all()
    assert left[-1].max() < 0.02
    assert left[-1].mean() < 0.005


def test_masks_have_uniform_centres_of_their_own():
    n = 6400
    left = degradations.mask(100)(KEY, jnp.ones((n, 4, 4, 1)), jnp.ones(n, jnp.int32))
    counts = np.asarray((left[..., 0] == 0).sum(0))
    assert counts.sum() == n
    assert ((counts - n / 16) ** 2 / (n / 16)).sum() < 44.3  # chi-square, 15 degrees, 1e-4


def test_an_example_is_masked_the_same_in_any_batch():
    """By the degradation itself, and by `keyed`, which may be told what the examples' numbers are."""
    x, t = jnp.ones((10, 8, 8, 1)), jnp.full(10, 3)
    degrade = degradations.mask(10)

    @jax.jit
    def masked():
        keyed = cold.keyed(degrade)
        own = degrade(KEY, x[:4], t[:4]), degrade(KEY, x, t)[:4]
        whole = keyed(KEY, x, t)
        first = keyed(KEY, x[:4], t[:4]), whole[:4]
        last = keyed(KEY, x[:4], t[:4], 6 + jnp.arange(4)), whole[6:]
        return whole, (own, first, last)

    whole, pairs = masked()
    for found, expected in pairs:
        np.testing.assert_array_equal(found, expected)
    assert not bool((whole[0] == whole[1]).all())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: degradations.fade(0), "num_timesteps: must be at least 1, got 0"),
        (lambda: degradations.pixelate(0), "num_timesteps: must be at least 1, got 0"),
        (lambda: degradations.blur(0, sigma_final=2.0), "num_timesteps: must be at least 1, got 0"),
        (lambda: degradations.blur(5, sigma_final=2.0, sigma_first=0.0), "sigma_first: must be more than 0, got 0"),
        (lambda: degradations.blur(5, sigma_final=0.2), r"sigma_final: must be at least sigma_first, got 0\.2"),
        (lambda: degradations.mask(5, first=0.0), "first: must be more than 0, got 0"),
        (lambda: degradations.mask(5, first=0.5, final=0.1), r"final: must be at least first, got 0\.1"),
        (lambda: degradations.mask(0), "num_timesteps: must be at least 1, got 0"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()

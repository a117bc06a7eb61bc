"""Dead leaves against their exact laws: radii, values, pairs of pixels, spectrum.

Keys are fixed, so each test passes or fails for good; the thresholds are such that another
key would fail one with a probability of 1e-3 at most.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from dpm_jax.data import dead_leaves

KEY = jax.random.key(0)
FALSE_ALARM = 1e-4
SIGMAS = 4.5


def same_leaf(distance, r_min, r_max):
    """P(two pixels show the same leaf), by quadrature of the lens that two discs of radius r share."""

    @functools.cache
    def gamma(d):
        def integrand(log_r):
            r = np.exp(log_r)
            half = min(d / (2 * r), 1.0)
            return r**-2 * 2 * r**2 * (np.arccos(half) - half * np.sqrt(1 - half**2))

        kink = [np.log(d / 2)] if 2 * r_min < d < 2 * r_max else None
        value, _ = scipy.integrate.quad(integrand, np.log(r_min), np.log(r_max), points=kink, epsabs=1e-10)
        return value / ((r_min**-2 - r_max**-2) / 2)

    return np.vectorize(lambda d: gamma(d) / (2 * gamma(0.0) - gamma(d)))(np.asarray(distance, float))


def test_shape_type_and_reproducibility():
    draw = functools.partial(dead_leaves.sample, size=9, channels=3, r_min=1.5, r_max=6)
    x = draw(KEY, 5)
    assert x.shape == (5, 9, 9, 3)
    assert x.dtype == jnp.uint8
    np.testing.assert_array_equal(x, draw(KEY, 5))
    np.testing.assert_array_equal(x, jax.jit(lambda key: draw(key, 5))(KEY))
    assert not np.array_equal(x, draw(jax.random.key(1), 5))
    assert dead_leaves.sample(KEY, 2, size=1, r_min=0.5, r_max=1).shape == (2, 1, 1, 1)


def test_an_image_depends_on_its_number_and_not_on_the_batch():
    draw = functools.partial(dead_leaves.sample, KEY, size=9, r_min=1.5, r_max=6)
    np.testing.assert_array_equal(draw(2), draw(5)[:2])


def test_one_compilation_serves_every_key():
    before = dead_leaves._pile._cache_size()
    for seed in range(4):
        dead_leaves.sample(jax.random.key(seed), 3, size=10, r_min=1, r_max=5)
    assert dead_leaves._pile._cache_size() == before + 1


def test_no_pixel_is_left_bare():
    pile = np.asarray(dead_leaves._pile(KEY, 64, 32, 2, 1.0, 16.0))
    assert pile.min() == 0
    assert pile.max() == 255


@pytest.mark.parametrize("size", [1, 32])
def test_radii_follow_the_law_of_leaves_that_can_touch(size):
    r_min, r_max, side = 1.0, 16.0, size - 1

    def area(r):
        return side**2 * (r_min**-2 - r**-2) / 2 + 4 * side * (1 / r_min - 1 / r) + 4 * np.log(r / r_min)

    which, u = jax.random.uniform(KEY, (2, 100_000))
    r = np.asarray(dead_leaves._radius(which, u, size, r_min, r_max), np.float64)
    assert scipy.stats.kstest(r, lambda x: area(x) / area(r_max)).pvalue > FALSE_ALARM
    # The same integral, done by machine.
    numeric, _ = scipy.integrate.quad(lambda r: r**-3 * (side + 2 * r) ** 2, r_min, 5.0)
    assert area(5.0) == pytest.approx(numeric, rel=1e-9)


def test_every_value_is_as_frequent_in_the_corner_and_inside():
    # One pixel an image, since pixels of one image share leaves.
    x = np.asarray(dead_leaves.sample(KEY, 20_000, size=5, r_min=1, r_max=4))
    for pixel in (x[:, 0, 0, 0], x[:, 2, 2, 0]):
        assert scipy.stats.chisquare(np.bincount(pixel, minlength=256)).pvalue > FALSE_ALARM


def test_pairs_of_pixels_agree_as_often_as_theory_says():
    r_min, r_max, num = 1.5, 8.0, 2000
    x = np.asarray(dead_leaves.sample(KEY, num, size=16, r_min=r_min, r_max=r_max))[..., 0]
    offsets = [(0, 1), (1, 0), (1, 1), (0, 3), (4, 3), (8, 0), (0, 12), (15, 15)]
    for down, across in offsets:
        equal = x[:, down:, across:] == x[:, : 16 - down, : 16 - across]
        same = same_leaf(np.hypot(down, across), r_min, r_max)
        expected = same + (1 - same) / 256
        # Over the whole image, and between the corner and its partner: the edge is no special place.
        for rate in (equal.mean((1, 2)), equal[:, 0, 0]):
            stderr = max(rate.std(), np.sqrt(expected * (1 - expected) / 256)) / np.sqrt(num)
            assert abs(rate.mean() - expected) < SIGMAS * stderr, (down, across)


def test_channels_of_a_leaf_are_independent():
    x = np.asarray(dead_leaves.sample(KEY, 5000, size=4, channels=2, r_min=1, r_max=4), np.float64)
    assert abs(np.corrcoef(x[:, 0, 0, 0], x[:, 0, 0, 1])[0, 1]) < SIGMAS / np.sqrt(5000)
    # Neighbours on one leaf agree in both channels, on two in one of them with probability 2 / 256 at most.
    equal = x[:, 0, 0] == x[:, 0, 1]
    assert (equal[:, 0] != equal[:, 1]).mean() < 2 / 256 + SIGMAS * np.sqrt(2 / 256 / 5000)


def test_spectrum_falls_as_theory_says_and_about_as_the_inverse_square_of_frequency():
    r_min, r_max, size, num = 1.0, 32.0, 64, 128
    x = np.asarray(dead_leaves.sample(KEY, num, size=size, r_min=r_min, r_max=r_max), np.float64)[..., 0]
    # A window, since the jump from one edge to the other has a spectrum of f^-2 itself.
    window = np.outer(*[np.hanning(size + 1)[:size]] * 2)
    power = np.abs(np.fft.fft2((x - 127.5) * window)) ** 2

    # Exactly, the power is the transform of covariance times the window's autocorrelation; lags wrap round.
    lag = np.arange(-size, size)
    padded = np.fft.fft2(window, (2 * size, 2 * size))
    autocorrelation = np.fft.fftshift(np.fft.ifft2(np.abs(padded) ** 2).real)
    correlation = same_leaf(np.hypot(lag[:, None], lag), r_min, r_max)
    covariance = (256**2 - 1) / 12 * correlation * autocorrelation
    expected = np.fft.fft2(covariance.reshape(2, size, 2, size).sum((0, 2))).real

    frequency = np.fft.fftfreq(size)
    ring = np.rint(size * np.hypot(frequency[:, None], frequency)).astype(int)
    # From r_max's scale, where the law begins to be free of scale, to half of Nyquist, where pixels alias.
    rings = np.arange(2, size // 4)
    measured = np.array([power[:, ring == k].mean(1) for k in rings])
    theory = np.array([expected[ring == k].mean() for k in rings])
    stderr = measured.std(1) / np.sqrt(num)
    assert (np.abs(measured.mean(1) - theory) < SIGMAS * stderr).all()

    slope, theory_slope = (np.polyfit(np.log(rings), np.log(p), 1)[0] for p in (measured.mean(1), theory))
    assert abs(slope - theory_slope) < 0.1
    assert -2.6 < theory_slope < -1.5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"r_min": 0}, "r_min: .*got 0"),
        ({"r_min": -1.0}, "r_min: .*got -1.0"),
        ({"r_min": float("nan")}, "r_min: .*got nan"),
        ({"r_max": 1}, "r_max: .*greater than r_min = 1.*got 1"),
        ({"r_max": float("inf")}, "r_max: .*got inf"),
        ({"size": 0}, "size: .*got 0"),
        ({"channels": 0}, "channels: .*got 0"),
        ({"num": 0}, "num: .*got 0"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(change, words):
    arguments = {"num": 2, "size": 8, "channels": 1, "r_min": 1, "r_max": 4} | change
    with pytest.raises(ValueError, match=words) as error:
        dead_leaves.sample(KEY, **arguments)
    assert "\n" not in str(error.value)


def test_moments_are_those_of_a_value_plus_uniform_noise():
    values = np.arange(256)
    mean, std = dead_leaves.mean_and_std()
    assert mean == pytest.approx(values.mean() + 0.5)
    assert std**2 == pytest.approx(values.var() + 1 / 12)

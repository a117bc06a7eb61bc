"""Laws of grey levels: masses, and K of pixels against their exact code length."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from dpm_jax import Gaussian, Normal, bound, likelihood, schedules
from dpm_jax.data.standardization import of_pixels
from dpm_jax.distributions import Grid
from dpm_jax.errors import UserError
from dpm_jax.nets.levels import with_level_features
from dpm_jax.training import build
from dpm_jax.training import config as config_lib
from tests.chains import independent_levels

KEY = jax.random.key(0)
GRID = Grid(-1.0, 0.25, 9)
LEVELS = GRID.lowest + GRID.width * np.arange(GRID.num)


@pytest.mark.parametrize("mean", [-30.0, -1.1, 0.12, 0.9, 40.0])
@pytest.mark.parametrize("scale", [0.01, 0.2, 3.0])
def test_masses_are_the_softmax_of_the_density_at_the_levels(mean, scale):
    expected = special.log_softmax(-((LEVELS - np.float32(mean)) ** 2) / 2 / np.float64(np.float32(scale**2)))
    law = Normal(jnp.full((9, 1), mean), jnp.full((9, 1), scale**2))
    found = np.asarray(jax.jit(GRID.log_mass)(law, jnp.asarray(LEVELS, jnp.float32)[:, None]))
    np.testing.assert_allclose(found, expected, rtol=3e-5, atol=3e-5)
    density = np.asarray(GRID.log_prob(law, jnp.asarray(LEVELS, jnp.float32)[:, None]))
    np.testing.assert_allclose(density, found - np.log(0.25), rtol=1e-5)


def test_gradients_of_masses_are_those_of_the_softmax():
    def expected(mean, variance):
        return jax.nn.log_softmax(-((LEVELS - mean) ** 2) / 2 / variance)[3]

    def found(mean, variance):
        return GRID.log_mass(Normal(mean[None, None], variance[None, None]), jnp.full((1, 1), LEVELS[3]))[0]

    for point in ((0.1, 0.02), (-0.3, 1.0)):
        point = [jnp.float32(value) for value in point]
        np.testing.assert_allclose(jax.grad(found, (0, 1))(*point), jax.grad(expected, (0, 1))(*point), rtol=1e-4)


def test_levels_are_those_of_dequantised_pixels():
    units = of_pixels(33.0, 78.6**2, 256)
    pixels = jnp.arange(256, dtype=jnp.uint8).repeat(200)[:, None]
    for key in jax.random.split(KEY, 3):
        x = units.dequantize(key, pixels)
        np.testing.assert_allclose(units.grid.nearest(x), units.centres(pixels), atol=1e-6)
    np.testing.assert_array_equal(units.invert(units.grid.nearest(x)), pixels)
    assert of_pixels(0.0, 1.0, None).grid is None


def test_k_of_independent_levels_reaches_their_code_length():
    """Pixels with a known law, and the denoiser that Bayes' rule makes of it: K is the entropy, but for the steps."""
    grid = Grid(-1.5, 1.0, 4)
    log_p = np.log([0.5, 0.1, 0.15, 0.25])
    levels = grid.lowest + grid.width * np.arange(4)
    process = Gaussian(schedules.geometric(2000, beta_1=(grid.width / 6) ** 2))
    model = independent_levels(process, levels, log_p)
    x_0 = jnp.asarray(levels, jnp.float32)[jax.random.categorical(KEY, log_p, shape=(4096, 2))]
    evaluate = jax.jit(lambda x: bound.evaluate(KEY, model, x, edge=grid.log_prob, num_times=200).k)
    k = evaluate(x_0)
    # The loss of the chain alone: K less the log-probability of the same examples.
    exact = np.asarray(log_p)[np.round(np.asarray(x_0) - grid.lowest).astype(int)].sum(1)
    lost = exact - np.asarray(k)
    stderr = lost.std(ddof=1) / np.sqrt(len(lost))
    assert -4 * stderr < lost.mean() < 0.01 + 4 * stderr
    assert stderr < 0.02
    # Importance sampling over trajectories, with the same edge: few trajectories, at bends of the chain, weigh less.
    weights = likelihood.log_weights(KEY, model, x_0[:256], 4, edge=grid.log_prob)
    assert abs(np.median(np.asarray(weights) - exact[:256, None])) < 0.03


def test_training_takes_the_level_of_each_pixel_and_the_right_value_of_k():
    config = config_lib.default()
    config.update_from_flattened_dict(
        {
            "edge": "grid",
            "num_timesteps": 20,
            "network.name": "unet",
            "network.unet.features": (8,),
            "network.unet.periods": (1.0, 2.0),
            "network.unet.attention": False,
        }
    )
    units = of_pixels(120.0, 50.0**2, 256)
    built = build.experiment(config, (4, 4, 1), units)
    params = jax.jit(built.init)(KEY)
    schedule = built.model(params).process.schedule
    np.testing.assert_allclose(np.sqrt(schedule.sigma2[1]) / units.grid.width, 1 / 6, rtol=1e-5)
    pixels = jax.random.randint(KEY, (256, 4, 4, 1), 100, 140).astype(jnp.uint8)
    one, other = (units.dequantize(key, pixels) for key in jax.random.split(KEY))
    loss = jax.jit(built.loss)
    assert loss(params, KEY, one, ())[0] == loss(params, KEY, other, ())[0]
    losses = [float(loss(params, key, one, ())[0]) for key in jax.random.split(KEY, 20)]
    evaluate = jax.jit(lambda x_0: bound.evaluate(KEY, built.model(params), x_0, edge=built.edge).k)
    k = bound.mean_and_stderr(evaluate(built.data(one)))
    stderr = np.hypot(np.std(losses, ddof=1) / np.sqrt(20), k.stderr)
    assert abs(np.mean(losses) + k.mean) < 4 * stderr < 0.1 * abs(k.mean)
    with pytest.raises(UserError, match=r"config\.edge: 'grid' is a law of the levels of 8-bit pixels"):
        build.experiment(config, (4, 4, 1))
    config.edge = "forward"
    with pytest.raises(
        UserError, match=r"config\.network\.unet\.periods: are of grey levels, and the data are no 8-bit pixels"
    ):
        build.experiment(config, (4, 4, 1))


def test_level_features_are_the_levels_phase_where_noise_is_fine_and_nothing_where_it_is_not():
    schedule = schedules.geometric(3, beta_1=1e-6)
    x_0 = jnp.asarray(LEVELS[None, :, None, None], jnp.float32).repeat(2, 0)
    t = jnp.array([1, 3])
    x_t = jnp.sqrt(schedule.alpha_bar[t])[:, None, None, None] * x_0
    found = with_level_features(x_t, t, (2.0, 4.0), GRID, lambda t: schedule.log_nsr[t])
    assert found.shape == (2, 9, 1, 5)
    phase = np.pi * np.arange(9)
    expected = [np.sin(phase), np.cos(phase), np.sin(phase / 2), np.cos(phase / 2)]
    np.testing.assert_allclose(found[0, :, 0, 1:], np.stack(expected, -1), atol=1e-3)
    np.testing.assert_allclose(found[1, :, 0, 1:], 0, atol=1e-6)

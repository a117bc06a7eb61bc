"""A network's law over grey levels: against Bayes' rule in float64, and K against the code length of known laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from dpm_jax import Gaussian, bound, grey_levels, schedules
from dpm_jax.data.standardization import of_pixels
from dpm_jax.distributions import Grid
from dpm_jax.errors import UserError
from dpm_jax.training import build
from dpm_jax.training import config as config_lib

KEY = jax.random.key(0)
UNITS = of_pixels(33.0, 78.6**2, 256)
GRID = UNITS.grid
LEVELS = GRID.lowest + GRID.width * np.arange(256)


def process_of(num_timesteps, grid=GRID):
    return Gaussian(schedules.geometric(num_timesteps, beta_1=(grid.width / 6) ** 2))


def outputs(seed, shape, grid=GRID, scale=1.0):
    return scale * np.random.default_rng(seed).normal(size=(*shape, len(grey_levels.features(grid.num))))


@pytest.mark.parametrize("num_timesteps", [1, 1000])
def test_moments_are_those_of_bayes_rule(num_timesteps):
    """Far levels and near ones, below the lowest and above the highest, at both ends of the chain and between."""
    process = process_of(num_timesteps)
    c = outputs(0, (60, 2, 3)).astype(np.float32)
    model = grey_levels.gaussian(process, lambda x, t: jnp.asarray(c).reshape(60, 2, -1), GRID)
    t = np.linspace(1, num_timesteps, 60).round().astype(int)
    x_0 = LEVELS[np.random.default_rng(1).integers(0, 256, (60, 2, 3))]
    x_0[:, 0] = LEVELS[[0, 1, 255]]
    x_t = np.asarray(process.marginal(jnp.asarray(x_0), jnp.asarray(t)).sample(KEY))
    found = jax.jit(model.denoised)(x_t, jnp.asarray(t))
    nsr = np.exp(np.asarray(process.schedule.log_nsr, np.float64))[t][:, None, None, None]
    log_p = -0.5 * (x_t[..., None] * np.sqrt(1 + nsr) - LEVELS) ** 2 / nsr
    p = softmax(log_p + c.astype(np.float64) @ grey_levels.features(256), axis=-1)
    mean = (p * LEVELS).sum(-1)
    variance = (p * (LEVELS - mean[..., None]) ** 2).sum(-1)
    noise = np.sqrt(nsr[..., 0])
    assert np.abs((found.mean - mean) / np.minimum(noise, 1)).max() < 2e-3
    # At t = 1 it is at least that of the noise, which is the scale that errors of it count on.
    variance = np.maximum(variance, np.where(t == 1, nsr[..., 0, 0, 0], 0)[:, None, None])
    assert (np.abs(found.variance - variance) < 2e-3 * variance + 1e-3 * noise**2).all()


def test_k_is_the_code_length_of_pixels_with_a_known_law():
    """The features span every law of four levels: with its logarithm for a prior, K is the entropy."""
    grid = Grid(-1.5, 1.0, 4)
    log_p = np.log([0.5, 0.1, 0.15, 0.25])
    table = grey_levels.features(4)
    c = np.linalg.lstsq(table.T, log_p - log_p.mean(), rcond=None)[0]
    np.testing.assert_allclose(log_softmax(c @ table), log_p, atol=1e-4)
    x_0 = jnp.asarray(grid.lowest + grid.width * jax.random.categorical(KEY, log_p, shape=(4096, 2)))
    model = grey_levels.gaussian(
        process_of(2000, grid), lambda x, t: jnp.tile(jnp.asarray(c, jnp.float32), (len(x), 2)), grid
    )
    evaluate = jax.jit(lambda x: bound.evaluate(KEY, model, x, edge=grid.log_prob, num_times=200).k)
    exact = log_p[np.round(np.asarray(x_0) - grid.lowest).astype(int)].sum(1)
    lost = exact - np.asarray(evaluate(x_0))
    stderr = lost.std(ddof=1) / np.sqrt(len(lost))
    assert -4 * stderr < lost.mean() < 0.01 + 4 * stderr
    assert stderr < 0.02


def test_gradients_are_finite_at_the_edges_and_those_of_finite_differences():
    process = process_of(1000)
    t = jnp.array([1, 2, 500, 1000])
    c = jnp.asarray(outputs(2, (4, 3), scale=0.3).reshape(4, -1), jnp.float32)
    x_0 = jnp.asarray(LEVELS[[[0, 17, 255]] * 4], jnp.float32)
    x_t = process.marginal(x_0, t).sample(KEY)

    @jax.jit
    def loss(c, x_t):
        p = grey_levels.gaussian(process, lambda x, t: c, GRID).denoised(x_t, t)
        noise = jnp.exp(0.5 * process.schedule.log_nsr[t])[:, None]
        return (jnp.sin(p.mean_less(x_0) / noise) + p.variance / noise**2).sum()

    assert all(np.isfinite(slope).all() for slope in jax.grad(loss, (0, 1))(c, x_t))
    direction = jax.random.normal(KEY, c.shape)
    step = 1e-2
    change = (loss(c + step * direction, x_t) - loss(c - step * direction, x_t)) / (2 * step)
    np.testing.assert_allclose((jax.grad(loss)(c, x_t) * direction).sum(), change, rtol=0.02)
    each = jax.vmap(
        lambda x, t, c: grey_levels.gaussian(process, lambda x, t: c[None], GRID).denoised(x[None], t[None]).mean
    )
    whole = grey_levels.gaussian(process, lambda x, t: c, GRID).denoised(x_t, t).mean
    np.testing.assert_allclose(each(x_t, t, c)[:, 0], whole, rtol=1e-5, atol=1e-6)
    # Real times, as of the limit of infinitely many steps.
    between = grey_levels.gaussian(process, lambda x, t: c, GRID).denoised(x_t, jnp.array([1.5, 2.5, 500.5, 999.5]))
    assert np.isfinite(between.mean).all()


def config_of(**changes):
    config = config_lib.default()
    config.update_from_flattened_dict(
        {
            **{"edge": "grid", "num_timesteps": 20, "reverse.prediction": "levels", "network.name": "unet"},
            **{"network.unet.features": (8,), "network.unet.attention": False, **changes},
        }
    )
    return config


def test_a_config_has_them_and_refuses_what_has_no_levels():
    built = build.experiment(config_of(), (4, 4, 3), UNITS)
    params = jax.jit(built.init)(KEY)
    pixels = GRID.lowest + GRID.width * jax.random.randint(KEY, (64, 4, 4, 3), 0, 256).astype(jnp.float32)
    loss, _ = jax.jit(built.loss)(params, KEY, pixels, ())
    # All levels alike is the law of these pixels, and of the network at its start.
    code_length = 48 * np.log(256 * GRID.width)
    assert abs(loss - code_length) / 48 < 0.3
    with pytest.raises(UserError, match=r"config\.reverse\.prediction: 'levels' is for 8-bit pixels, which these data"):
        build.experiment(config_of(edge="forward"), (4, 4, 3))
    with pytest.raises(
        UserError, match=r"config\.reverse\.variance: must be 'mixed' with prediction 'levels', got 'small'"
    ):
        build.experiment(config_of(**{"reverse.variance": "small"}), (4, 4, 3), UNITS)

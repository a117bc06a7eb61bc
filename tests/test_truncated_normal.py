"""Dequantisation by truncated normals: against the code length of known laws, and what it is made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dpm_jax import Binomial, Gaussian, Model, predictions, schedules, truncated_normal
from dpm_jax.distributions import Grid
from tests.chains import independent_levels

KEY = jax.random.key(0)
GRID = Grid(-1.5, 1.0, 4)
LEVELS = GRID.lowest + GRID.width * np.arange(4)
LOG_P = np.log([0.5, 0.1, 0.15, 0.25])


def bayes(num_timesteps, noise):
    """The denoiser that Bayes' rule makes of independent levels with the law of LOG_P."""
    process = Gaussian(schedules.geometric(num_timesteps, beta_1=(GRID.width * noise) ** 2))
    return independent_levels(process, LEVELS, LOG_P)


@pytest.mark.parametrize("noise", [1 / 8, 1 / 5])
def test_it_is_the_code_length_of_levels_with_a_known_law(noise):
    levels = jax.random.categorical(KEY, LOG_P, shape=(8192, 2))
    x_0, exact = jnp.asarray(LEVELS, jnp.float32)[levels], LOG_P[np.asarray(levels)].sum(1)
    model = bayes(1000, noise)
    evaluate = jax.jit(lambda x: truncated_normal.evaluate(KEY, model, x, GRID, num_times=200))
    lost = exact - np.asarray(evaluate(x_0))
    stderr = lost.std(ddof=1) / np.sqrt(len(lost))
    assert -4 * stderr < lost.mean() < 0.02 + 4 * stderr
    assert stderr < 0.03


def test_of_standard_normal_data_it_is_the_closed_form():
    """A model that is exact for x_1, whatever the levels: the mean of its log-density, and the entropy of the law."""
    grid = Grid(-1.5, 0.5, 7)
    x_0 = jnp.tile(grid.lowest + grid.width * jnp.arange(7.0), (8000, 1))
    process = Gaussian(schedules.geometric(50, beta_1=1e-2))
    model = predictions.gaussian(process, lambda x, t: jnp.zeros((len(x), 14)))
    found = jax.jit(lambda x: truncated_normal.evaluate(KEY, model, x, grid))(x_0)
    alpha_bar, sigma2 = (float(values[1]) for values in (process.schedule.alpha_bar, process.schedule.sigma2))
    border = 0.5 * grid.width * np.sqrt(alpha_bar / sigma2)
    law = stats.truncnorm(-border, border, scale=np.sqrt(sigma2))
    squares = alpha_bar * np.asarray(x_0[0]) ** 2 + law.var()
    expected = -0.5 * (squares + np.log(2 * np.pi)).sum() + 7 * (law.entropy() - np.log(grid.width))
    assert abs(np.mean(found) - expected) < 4 * np.std(found) / np.sqrt(8000) < 0.2


def test_what_it_does_not_go_with_is_refused():
    x_0 = jnp.zeros((2, 3))
    with pytest.raises(ValueError, match=r"the noise of the first step must be at most 0\.25 of a level, got 0\.3"):
        truncated_normal.evaluate(KEY, bayes(10, 0.3), x_0, GRID)
    with pytest.raises(ValueError, match="needs more than one step"):
        truncated_normal.evaluate(KEY, bayes(1, 0.1), x_0, GRID)
    flips = Model(Binomial(schedules.erase(10)), lambda x, t: None)
    with pytest.raises(ValueError, match="for a Gaussian process, got Binomial"):
        truncated_normal.evaluate(KEY, flips, x_0, GRID)

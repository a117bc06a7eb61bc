"""Values that are not finite end a command with an error, and are not written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpm_jax.errors import UserError
from dpm_jax.evaluation import report, restoration_report
from dpm_jax.evaluation.samples import draw, in_data_units
from dpm_jax.training import build
from dpm_jax.training import config as config_lib

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def lost():
    """A model whose parameters are NaN, its data, and those parameters."""
    config = config_lib.default()
    config.update_from_flattened_dict(
        {"num_timesteps": 2, "reverse.covariance": "diagonal", "network.time_mlp.features": (4,)}
    )
    source = build.source(config)
    built = build.experiment(config, source.shape)
    return built, source, jax.tree.map(lambda a: jnp.full_like(a, jnp.nan), built.init(KEY))


def test_samples_that_are_not_finite_are_counted_and_refused(lost):
    built, source, params = lost
    with pytest.raises(UserError, match="20 of 20 samples are not finite, so none are written") as error:
        draw(KEY, built, params, source.standardization, 20)
    assert "\n" not in str(error.value)
    x = np.zeros((5, 4, 4, 1), np.float32)
    x[1, 2, 3], x[4, 0, 0], x[4, 1, 1] = np.nan, np.inf, np.nan
    # Of pixels too, in which NaN would be black.
    pixels = source.standardization._replace(levels=256)
    with pytest.raises(UserError, match="2 of 5 samples are not finite"):
        in_data_units(jnp.asarray(x), pixels)


def test_a_bound_that_is_not_finite_is_no_report(lost):
    built, source, params = lost
    with pytest.raises(UserError, match="K of 10 of 10 held-out examples is not finite, so there is none to report"):
        report.evaluate(KEY, built, params, source, 10, 0)


def test_restorations_that_are_not_finite_are_no_report():
    config = config_lib.default()
    config.update_from_flattened_dict(
        {
            **{"kernel": "cold", "train.objective": "restoration", "num_timesteps": 2, "cold.degradation": "fade"},
            **{"data.name": "dead_leaves", "data.dead_leaves.size": 4, "network.name": "multiscale"},
            **{"network.multiscale.features": 2, "network.multiscale.num_layers": 1},
        }
    )
    source = build.source(config)
    built = build.experiment(config, source.shape)
    params = jax.tree.map(lambda a: jnp.full_like(a, jnp.nan), built.init(KEY))
    with pytest.raises(UserError, match="restorations of 3 of 3 held-out images are not finite"):
        restoration_report.evaluate(KEY, built, params, source, 3, 0)

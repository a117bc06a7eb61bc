"""The swiss roll, our best: a thin curve in the plane, T = 100, full covariance."""

from ml_collections import ConfigDict

from dpm_jax import config


def get_config() -> ConfigDict:
    c = config.default()
    c.reverse.covariance = "full"
    return c

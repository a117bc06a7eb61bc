"""Configs where the user gives none: by the shape and the type of the data."""

from __future__ import annotations

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from dpm_jax.training import config as config_lib

__all__ = ["for_data"]

# Dimensions up to which a full covariance of the reverse steps compiles in seconds.
_FULL_DIM = 3
# Dimensions up to which random Fourier features of x help a perceptron.
_FOURIER_DIM = 8


def for_data(data: np.ndarray) -> ConfigDict:
    """Return a config for these data, but for where they are.

    Args:
      data: bits or vectors [N, d], or images [N, H, W] or [N, H, W, C]. Booleans, and vectors of nothing but 0 and 1,
        are bits.

    Raises:
      ValueError: if the data have another shape.
    """
    if data.ndim == 2:
        return _bits(data) if _are_bits(data) else _vectors(data)
    if data.ndim in (3, 4):
        return _images(data)
    raise ValueError(f"array: has shape {data.shape}; vectors need [N, d], images [N, H, W] or [N, H, W, C]")


def _are_bits(data: np.ndarray) -> bool:
    return data.dtype == bool or bool(np.isin(data, (0, 1)).all())


def _with(fields: dict[str, Any]) -> ConfigDict:
    config = config_lib.default()
    config.update_from_flattened_dict(fields)
    return config


def _bits(data: np.ndarray) -> ConfigDict:
    width = 64 if data.shape[1] <= 32 else 256
    return _with(
        {
            "num_timesteps": 200,
            "kernel": "binomial",
            "reverse.prediction": "x_0",
            "schedule.name": "erase",
            "schedule.erase.beta_1": 1e-5,
            "network.time_mlp.features": (width, width),
            "network.time_mlp.num_frequencies": 0,
            "train.batch_size": 512,
            "train.steps": 6000,
        }
    )


def _vectors(data: np.ndarray) -> ConfigDict:
    dim = data.shape[1]
    width = 64 if dim <= _FOURIER_DIM else 256
    return _with(
        {
            "num_timesteps": 200,
            "reverse.covariance": "full" if dim <= _FULL_DIM else "diagonal",
            "data.file.constant_columns": "leave_out",
            "network.time_mlp.features": (width,) * 3,
            "network.time_mlp.num_frequencies": 32 if dim <= _FOURIER_DIM else 0,
            "train.steps": 10_000,
        }
    )


def _images(data: np.ndarray) -> ConfigDict:
    height, width = data.shape[1:3]

    def fit(factor: int) -> bool:
        return bool(height % factor == 0 and width % factor == 0)

    # One pixel of the coarsest level is 4, 2 or 1 pixels of the image.
    features, patch_size = ((32, 64), 2) if fit(4) else ((32, 64), 1) if fit(2) else ((64,), 1)
    return _with(
        {
            "num_timesteps": 50,
            "schedule.geometric.beta_1": 1e-4,
            "network.name": "unet",
            "network.unet.features": features,
            "network.unet.patch_size": patch_size,
            "optimizer.learning_rate": 2e-3,
            "train.batch_size": 64,
            "train.steps": 4000,
            "train.log_every": 50,
            "train.checkpoint_every": 500,
            "evaluate.num_examples": 256,
        }
    )

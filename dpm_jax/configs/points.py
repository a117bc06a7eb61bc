"""Your own points, for two CPU cores: a perceptron on rows of a .csv, .npy or .npz, T = 200.

Needs --data_dir alone: the file. For 2 or 3 columns, --config.reverse.covariance=full is tighter.

Command: python train.py --config=points --data_dir=POINTS.csv --workdir=runs/mine
Expect, on 2 CPU cores: a minute or two.
"""

from ml_collections import ConfigDict

from dpm_jax.training import config


def get_config() -> ConfigDict:
    c = config.default()
    c.num_timesteps = 200
    c.data.name = "file"
    c.data.file.constant_columns = "leave_out"
    c.train.steps = 5000
    return c

"""Bark from one photograph, for two CPU cores: a small convolutional network on 32 x 32 crops, T = 100.

The noise has the photograph's spectrum, so that training begins at the best stationary Gaussian model. Four fifths of
the photograph are trained on, the lowest fifth is held out. Samples can be of any size:
python sample.py --workdir=runs/bark --num_samples=4 --size=128

Paper: Sohl-Dickstein et al. 2015, section 3.2.4, table 1; K - L_null = 1.5 bits/pixel, on another photograph.
Command: python train.py --config=bark --data_dir=FOLDER --config.data.folder.path=PHOTOGRAPH
Expect, on 2 CPU cores, bark012_grey.png: K = -0.938 +- 0.010 bits/pixel, K - L_null = 1.087 +- 0.016; 8 minutes
in all.
"""

from ml_collections import ConfigDict

from dpm_jax.training import config


def get_config() -> ConfigDict:
    c = config.default()
    c.num_timesteps = 100
    c.data.name = "folder"
    c.data.folder.path = "bark012_grey.png"
    c.data.folder.held_out = 0.2
    c.data.crop = 32
    c.noise = "spectrum"
    c.schedule.geometric.beta_1 = 1e-4
    c.network.name = "multiscale"
    c.network.multiscale.film = True
    c.network.multiscale.features = 32
    c.network.multiscale.num_scales = 3
    c.optimizer.learning_rate = 2e-3
    c.train.batch_size = 32
    c.train.steps = 3000
    c.train.log_every = 50
    c.train.checkpoint_every = 500
    c.evaluate.num_examples = 128
    return c

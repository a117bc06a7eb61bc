"""CIFAR-10, for two CPU cores: a small U-Net on patches of 2 x 2 pixels, T = 100.

Paper: Sohl-Dickstein et al. 2015, section 3.2.2, table 1; K - L_null = 11.5 bits/pixel.
Field: DDPM 3.70 bits/dim, VDM 2.65.
Command: python train.py --config=cifar10 --data_dir=FOLDER
Expect, on 2 CPU cores: K = 4.73 +- 0.14 bits/pixel, K - L_null = 10.82, 4.43 bits/dim; colours and textures, no objects
yet; 12 minutes of training, 15 in all.
"""

from ml_collections import ConfigDict

from dpm_jax.training import config


def get_config() -> ConfigDict:
    c = config.default()
    c.num_timesteps = 100
    c.data.name = "tfds"
    c.data.tfds.dataset = "cifar10"
    c.schedule.geometric.beta_1 = 2e-5
    c.network.name = "unet"
    c.network.unet.features = (32, 64)
    c.network.unet.patch_size = 2
    c.optimizer.learning_rate = 2e-3
    c.train.batch_size = 32
    c.train.steps = 3000
    c.train.log_every = 50
    c.train.checkpoint_every = 500
    c.evaluate.num_examples = 128
    return c

"""CIFAR-10, for two CPU cores: a small U-Net on patches of 2 x 2 pixels, T = 1000, levels on their grid.

The noise of the first step is a sixth of a grey level, p(x_0 | x_1) is a law of the 256 levels, and the network sees
Fourier features of them.

Paper: Sohl-Dickstein et al. 2015, section 3.2.2, table 1; K - L_null = 11.5 bits/pixel.
Field: DDPM 3.70 bits/dim, VDM 2.65.
Command: python train.py --config=cifar10 --data_dir=FOLDER
Expect, on 2 CPU cores: 4.266 +- 0.031 bits/dim, K = 5.21 +- 0.09 bits/pixel, K - L_null = 11.35 +- 0.13; colours and
textures; 15 minutes of training on quiet cores (8 steps/s), 22 beside other work.
"""

from ml_collections import ConfigDict

from dpm_jax.training import config


def get_config() -> ConfigDict:
    c = config.default()
    c.num_timesteps = 1000
    c.edge = "grid"
    c.data.name = "tfds"
    c.data.tfds.dataset = "cifar10"
    c.network.name = "unet"
    c.network.unet.features = (32, 64)
    c.network.unet.patch_size = 2
    c.network.unet.periods = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
    c.optimizer.learning_rate = 2e-3
    c.optimizer.ema_decay = 0.999
    c.train.batch_size = 16
    c.train.steps = 7000
    c.train.log_every = 50
    c.train.checkpoint_every = 1000
    c.evaluate.num_examples = 256
    c.evaluate.num_times = 50
    return c

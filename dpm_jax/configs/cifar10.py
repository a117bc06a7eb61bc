"""CIFAR-10, for two CPU cores: a small U-Net on patches of 2 x 2 pixels, T = 1000, noise of the images' spectrum.

Noise of every frequency meets the images' variance at the same t, so that training begins at their best stationary
Gaussian model (4.69 bits/dim). The optimizer is Muon.

Paper: Sohl-Dickstein et al. 2015, section 3.2.2, table 1; K - L_null = 11.5 bits/pixel.
Field: DDPM 3.70 bits/dim, VDM 2.65.
Command: python train.py --config=cifar10 --data_dir=FOLDER
Expect, on 2 CPU cores: K = 6.94 +- 0.11 bits/pixel, K - L_null = 13.08 +- 0.15, 3.691 +- 0.037 bits/dim (dequantised);
11 to 13 minutes of training (12 to 14 steps/s), 13 to 15 in all. Samples have the images' colours and soft
textures, and few edges.
"""

from ml_collections import ConfigDict

from dpm_jax.training import config


def get_config() -> ConfigDict:
    c = config.default()
    c.num_timesteps = 1000
    c.noise = "spectrum"
    c.schedule.geometric.beta_1 = 1e-4
    c.data.name = "tfds"
    c.data.tfds.dataset = "cifar10"
    c.network.name = "unet"
    c.network.unet.features = (32, 64)
    c.network.unet.patch_size = 2
    c.optimizer.name = "muon"
    c.optimizer.muon.rms = 0.15
    c.optimizer.learning_rate = 3e-3
    c.optimizer.ema_decay = 0.999
    c.train.batch_size = 16
    c.train.steps = 9000
    c.train.log_every = 50
    c.train.checkpoint_every = 1000
    c.evaluate.num_examples = 256
    c.evaluate.num_times = 50
    return c

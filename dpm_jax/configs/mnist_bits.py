"""MNIST, for the fewest bits on two CPU cores: a small U-Net on patches of 2 x 2 pixels, T = 1000.

The noise of the first step is a sixth of a grey level, p(x_0 | x_1) is a law of the 256 levels, and the network sees
Fourier features of them. Images are better from `mnist`, whose loss looks less at the finest noise.

Paper: none; Kingma et al. 2021 (VDM), sections 3.3 and 5, have the decoder and the features.
Field: about 1.0 bits/dim for flows, 0.37 for VDM, after days.
Command: python train.py --config=mnist_bits --data_dir=FOLDER
Expect, on 2 CPU cores: 1.207 +- 0.012 bits/dim, K - L_null = 7.15 bits/pixel; 10 minutes of training on quiet cores (11
steps/s), 15 beside other work.
"""

from ml_collections import ConfigDict

from dpm_jax.training import config


def get_config() -> ConfigDict:
    c = config.default()
    c.num_timesteps = 1000
    c.edge = "grid"
    c.data.name = "tfds"
    c.data.tfds.dataset = "mnist"
    c.network.name = "unet"
    c.network.unet.features = (32, 64)
    c.network.unet.patch_size = 2
    c.network.unet.periods = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
    c.optimizer.learning_rate = 2e-3
    c.optimizer.ema_decay = 0.999
    c.train.batch_size = 16
    c.train.steps = 6500
    c.train.log_every = 50
    c.train.checkpoint_every = 1000
    c.evaluate.num_examples = 512
    c.evaluate.num_times = 50
    return c

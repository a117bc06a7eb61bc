"""MNIST, for the fewest bits on two CPU cores: a small U-Net on patches of 2 x 2 pixels, T = 1000.

Network, batch and optimizer are those of `cifar10`. The noise is white, and that of the first step a sixth
of a grey level; p(x_0 | x_1) and the network's predictions are laws of the 256 levels, which MNIST has few of. Images
are better from `mnist`, whose loss looks less at the finest noise.

Paper: none; Kingma et al. 2021 (VDM), sections 3.3 and 3.4, have the decoder and the features.
Field: about 1.0 bits/dim for flows, 0.37 for VDM, after days.
Command: python train.py --config=mnist_bits --data_dir=FOLDER
Expect, on 2 CPU cores: 1.029 +- 0.011 bits/dim, K - L_null = 7.33 bits/pixel; 12.3 minutes in all.
"""

from ml_collections import ConfigDict

from dpm_jax.configs import cifar10


def get_config() -> ConfigDict:
    c = cifar10.get_config()
    c.data.tfds.dataset = "mnist"
    c.noise, c.edge = "white", "grid"
    c.network.unet.periods = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
    c.reverse.prediction = "levels"
    c.train.steps = 8000
    c.evaluate.num_examples = 512
    c.evaluate.num_samples = 16
    return c

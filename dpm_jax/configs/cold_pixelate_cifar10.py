"""CIFAR-10 without noise: images are averaged over ever larger blocks, and a network learns to restore them.

A small U-Net on patches of 2 x 2 pixels; T = 20. There is no likelihood, and no K.

Paper: Bansal et al. 2022, "Cold Diffusion", section 4.3 (super-resolution).
Command: python train.py --config=cold_pixelate_cifar10 --data_dir=FOLDER
Expect: not run to its end here; its tests train it for some steps.
"""

from ml_collections import ConfigDict

from dpm_jax.training import config


def get_config() -> ConfigDict:
    c = config.default()
    c.kernel = "cold"
    c.data.name = "tfds"
    c.data.tfds.dataset = "cifar10"
    c.cold.degradation = "pixelate"
    c.num_timesteps = 20
    c.network.name = "unet"
    c.network.unet.features = (32, 64)
    c.network.unet.patch_size = 2
    c.optimizer.learning_rate = 2e-3
    c.train.objective = "restoration"
    c.train.batch_size = 32
    c.train.steps = 3000
    c.train.log_every = 50
    c.train.checkpoint_every = 500
    c.evaluate.num_examples = 128
    return c

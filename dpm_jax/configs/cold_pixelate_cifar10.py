"""CIFAR-10 without noise: images are averaged over ever larger blocks, and a network learns to restore them.

Network, batch and number of steps are those of `cifar10`; T = 20. There is no likelihood, and no K.

Paper: Bansal et al. 2022, "Cold Diffusion", section 4.3 (super-resolution).
Command: python train.py --config=cold_pixelate_cifar10 --data_dir=FOLDER
Expect: not run to its end here; its tests train it for some steps.
"""

from ml_collections import ConfigDict

from dpm_jax.configs import cifar10


def get_config() -> ConfigDict:
    c = cifar10.get_config()
    c.kernel = "cold"
    c.cold.degradation = "pixelate"
    c.num_timesteps = 20
    c.train.objective = "restoration"
    return c

"""MNIST without noise: images are blurred step by step to their mean, and a network learns to restore them.

The network is that of `mnist`; T = 20 blurs. There is no likelihood, and no K:
`python -m examples.experiments mnist_cold` compares its samples with a Gaussian model's.

Paper: Bansal et al. 2022, "Cold Diffusion", section 4.1 (deblurring) and 5.2 (generation).
Command: python train.py --config=cold_blur_mnist --data_dir=FOLDER
Expect, with --config.train.steps=2000: clean strokes, less varied than with noise; Frechet distance 230, not 48.
"""

from ml_collections import ConfigDict

from dpm_jax.configs import mnist


def get_config() -> ConfigDict:
    c = mnist.get_config()
    c.kernel = "cold"
    c.num_timesteps = 20
    c.optimizer.name, c.optimizer.learning_rate = "adam", 2e-3
    c.train.objective = "restoration"
    c.train.emphasis = 0.0
    c.train.batch_size, c.train.steps = 64, 4000
    return c

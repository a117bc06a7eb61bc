"""CIFAR-10 as in DDPM: noise prediction, L_simple, T = 1000, linear beta from 1e-4 to 0.02, fixed large variance.

A U-Net of three levels from 128 channels, of the size that the paper's has (theirs has four, and attention at
16 x 16 pixels; here it is at the coarsest level): for an accelerator.

Paper: Ho et al. 2020, "Denoising Diffusion Probabilistic Models", section 4; <= 3.75 bits/dim with L_simple.
Command: python train.py --config=ddpm_cifar10 --data_dir=FOLDER
Expect: not run to its end; no accelerator was available.
"""

from ml_collections import ConfigDict

from dpm_jax.training import config


def get_config() -> ConfigDict:
    c = config.default()
    c.num_timesteps = 1000
    c.data.name = "tfds"
    c.data.tfds.dataset = "cifar10"
    c.edge = "decoder"
    c.schedule.name = "linear"
    c.schedule.linear.beta_1 = 1e-4
    c.schedule.linear.beta_final = 0.02
    c.reverse.prediction = "epsilon"
    c.reverse.variance = "large"
    c.network.name = "unet"
    c.network.unet.features = (128, 256, 256)
    c.network.unet.num_blocks = 2
    c.network.dtype = "bfloat16"
    c.optimizer.learning_rate = 2e-4
    c.optimizer.adam.b2 = 0.999
    c.optimizer.warmup_steps = 5000
    c.optimizer.decay.name = "constant_schedule"
    c.optimizer.ema_decay = 0.9999
    c.train.objective = "simple"
    c.train.batch_size = 128
    c.train.steps = 800_000
    c.train.log_every = 100
    c.train.checkpoint_every = 5000
    c.evaluate.num_examples = 128
    return c

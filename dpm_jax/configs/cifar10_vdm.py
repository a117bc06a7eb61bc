"""CIFAR-10 as in VDM: K of infinitely many steps, levels on their grid, a deep network without down-sampling.

One level of 128 channels, 32 blocks on the way down and 33 on the way up, attention in the middle, features of the
finest levels: for a pod. The noise at both ends is learned. It predicts v, not epsilon.

Paper: Kingma et al. 2021, "Variational Diffusion Models", section 6 and appendix B; 2.65 bits/dim after 10 million
steps.
Command: python train.py --config=cifar10_vdm --data_dir=FOLDER
Expect: not run to its end; no accelerator was available.
"""

from ml_collections import ConfigDict

from dpm_jax.training import config


def get_config() -> ConfigDict:
    c = config.default()
    c.num_timesteps = 1000
    c.edge = "grid"
    c.data.name = "tfds"
    c.data.tfds.dataset = "cifar10"
    c.schedule.ends_learned = True
    c.reverse.prediction = "v"
    c.network.name = "unet"
    c.network.unet.features = (128,)
    c.network.unet.num_blocks = 32
    c.network.unet.num_heads = 1
    c.network.unet.num_groups = 32
    c.network.unet.dropout = 0.1
    c.network.unet.periods = (1.0, 2.0)
    c.network.unet.remat = True
    c.network.dtype = "bfloat16"
    c.optimizer.name = "adamw"
    c.optimizer.adamw.weight_decay = 0.01
    c.optimizer.learning_rate = 2e-4
    c.optimizer.decay.name = "constant_schedule"
    c.optimizer.ema_decay = 0.9999
    c.train.objective = "limit"
    c.train.batch_size = 128
    c.train.steps = 10_000_000
    c.train.log_every = 1000
    c.train.checkpoint_every = 20_000
    c.evaluate.num_examples = 1000
    c.evaluate.num_times = 50
    return c

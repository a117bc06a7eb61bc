"""Your own images, for two CPU cores: a small U-Net on patches of 2 x 2 pixels, T = 100.

Needs --data_dir alone: a folder of images of any format, sizes and colours, or a single image. Images of one size up
to 64 x 64 are the examples; other images are cut into random squares of 32 x 32 (--config.data.crop=64: of 64 x 64).

Command: python train.py --config=folder --data_dir=FOLDER --workdir=runs/mine
Expect, on 2 CPU cores: 10 minutes for colours of 32 x 32.
"""

from ml_collections import ConfigDict

from dpm_jax.training import config


def get_config() -> ConfigDict:
    c = config.default()
    c.num_timesteps = 100
    c.data.name = "folder"
    c.data.crop = -1
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

"""MNIST, for two CPU cores: a small U-Net on patches of 2 x 2 pixels, T = 50.

Times are drawn with an emphasis on coarse noise, where digits take their form: better samples
and Parzen estimate for a K that is 0.11 bits/pixel lower (--config.train.emphasis=0: K itself).

Paper: Sohl-Dickstein et al. 2015, section 3.2.1, table 2; Parzen estimate 220 +- 1.9 nats (317 bits).
Command: python train.py --config=mnist --data_dir=FOLDER
Then:    python evaluate.py --workdir=runs/mnist --data_dir=FOLDER --parzen
Expect, on 2 CPU cores: digits; K = 3.29 +- 0.02 bits/pixel, K - L_null = 5.33, 2.20 bits/dim; Parzen 188.5 +- 1.9 nats;
12 minutes of training, 13.6 in all; the Parzen estimate of 10 000 samples takes another 10 to 15.
"""

from ml_collections import ConfigDict

from dpm_jax.training import config


def get_config() -> ConfigDict:
    c = config.default()
    c.num_timesteps = 50
    c.data.name = "tfds"
    c.data.tfds.dataset = "mnist"
    c.schedule.geometric.beta_1 = 1e-4
    c.network.name = "unet"
    c.network.unet.features = (32, 64)
    c.network.unet.patch_size = 2
    c.optimizer.learning_rate = 2e-3
    c.train.emphasis = 0.5
    c.train.batch_size = 64
    c.train.steps = 4000
    c.train.log_every = 50
    c.train.checkpoint_every = 500
    c.evaluate.num_examples = 256
    return c

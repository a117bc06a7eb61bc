"""MNIST, for two CPU cores: a small U-Net on patches of 2 x 2 pixels, T = 50.

Times are drawn with an emphasis on coarse noise, where digits take their form: better samples and Parzen estimate for
a lower K (--config.train.emphasis=0: K itself). The optimizer is Muon.

Paper: Sohl-Dickstein et al. 2015, section 3.2.1, table 2; Parzen estimate 220 +- 1.9 nats (317 bits).
Command: python train.py --config=mnist --data_dir=FOLDER
Then:    python evaluate.py --workdir=runs/mnist --data_dir=FOLDER --parzen
Expect, on 2 CPU cores: digits; K = 3.58 +- 0.01 bits/pixel, K - L_null = 5.63, 1.90 bits/dim; Parzen 204.5 +- 1.9 nats;
15.6 minutes of training, 16.7 in all (10 steps/s); the Parzen estimate of 10 000 samples takes another 10.
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
    c.optimizer.name = "muon"
    c.optimizer.muon.rms = 0.15
    c.optimizer.learning_rate = 3e-3
    c.train.emphasis = 0.5
    c.train.batch_size = 32
    c.train.steps = 9000
    c.train.log_every = 50
    c.train.checkpoint_every = 500
    c.evaluate.num_examples = 256
    return c

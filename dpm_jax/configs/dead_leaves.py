"""Dead leaves, for two CPU cores: the paper's kind of network, small, with time on every layer, T = 100.

Paper: Sohl-Dickstein et al. 2015, section 3.2.3, table 1; K = 1.489 bits/pixel, K - L_null = 3.536;
MCGSM (Theis et al. 2012) 1.244. The paper does not give the radii of its leaves; K depends on them.
Command: python train.py --config=dead_leaves
Expect, on 2 CPU cores: K = 3.143 +- 0.045 bits/pixel, K - L_null = 5.197, 3.013 bits/dim; 6 minutes of training, 7.5 in
all.
"""

from ml_collections import ConfigDict

from dpm_jax.training import config


def get_config() -> ConfigDict:
    c = config.default()
    c.num_timesteps = 100
    c.data.name = "dead_leaves"
    c.schedule.geometric.beta_1 = 2e-5
    c.network.name = "multiscale"
    c.network.multiscale.film = True
    c.network.multiscale.features = 32
    c.network.multiscale.num_scales = 3
    c.optimizer.learning_rate = 2e-3
    c.train.batch_size = 32
    c.train.steps = 3000
    c.train.log_every = 50
    c.train.checkpoint_every = 500
    c.evaluate.num_examples = 128
    return c

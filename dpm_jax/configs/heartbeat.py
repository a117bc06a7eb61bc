"""The binary heartbeat, our best.

20 bits, a 1 every 5th, phase uniform. The network predicts the marginals of x_0 and the
exact posteriors are mixed by them; a small beta_1 lifts the ceiling of the first step.

Paper: Sohl-Dickstein et al. 2015, section 3.1.2, Figure 2; K = -2.414 bits/sequence.
Command: python train.py --config=heartbeat
Expect, on 2 CPU cores: K = -2.330 +- 0.002 bits/sequence (gap to the limit, paired, 0.0079 +- 0.0016), 17 s of
training, 48 s in all.
"""

from ml_collections import ConfigDict

from dpm_jax.training import config


def get_config() -> ConfigDict:
    c = config.default()
    c.num_timesteps = 1000
    c.kernel = "binomial"
    c.reverse.prediction = "x_0"
    c.data.name = "heartbeat"
    c.schedule.name = "erase"
    c.schedule.erase.beta_1 = 1e-5
    c.network.time_mlp.features = (64, 64)
    c.network.time_mlp.num_frequencies = 0
    c.train.batch_size = 512
    c.train.steps = 15_000
    c.train.checkpoint_every = 5000
    c.evaluate.num_examples = 10_000
    return c

"""The binary heartbeat as in the paper: T = 2000, 3 x 50 sigmoid units, a readout for each t, beta_t = 1 / (T - t + 1).

The paper passes the readout through a sigmoid to have the rates of x_{t-1}; here it gives
those of x_0, and the exact posteriors are mixed by them (`Binomial.posterior`).
--config.reverse.prediction=perturbation takes the readout for x_{t-1} itself.
Table App.1 has the chain end in fair coins, the text of appendix D.1.2 at rate 0.2; the
kernel forgets towards fair coins, so these it is.

Paper: Sohl-Dickstein et al. 2015, appendix D.1.2; K = -2.414 bits/sequence, K - L_null = 12.024.
Command: python train.py --config=heartbeat_paper
Expect, on 2 CPU cores: K = -2.414 +- 0.001 bits/sequence, 6 minutes.
"""

from ml_collections import ConfigDict

from dpm_jax.training import config


def get_config() -> ConfigDict:
    c = config.default()
    c.num_timesteps = 2000
    c.kernel = "binomial"
    c.reverse.prediction = "x_0"
    c.data.name = "heartbeat"
    c.schedule.name = "erase"
    c.network.name = "sigmoid_mlp"
    c.optimizer.learning_rate = 1e-2
    c.train.batch_size = 1024
    c.train.steps = 20_000
    c.train.checkpoint_every = 5000
    c.evaluate.num_examples = 10_000
    return c

"""MNIST with the paper's network: the dense path alone, softplus and tanh, T = 1000.

The schedule erases a constant fraction of the signal in each step, with beta_1 = 1e-3, as the
authors' released code has it.

Paper: Sohl-Dickstein et al. 2015, section 3.2.1 and appendix D.2; Parzen estimate 220 +- 1.9 nats (317 bits).
Command: python train.py --config=mnist_paper --data_dir=FOLDER
"""

from ml_collections import ConfigDict

from dpm_jax.training import config


def get_config() -> ConfigDict:
    c = config.default()
    c.num_timesteps = 1000
    c.data.name = "tfds"
    c.data.tfds.dataset = "mnist"
    c.schedule.name = "erase"
    c.schedule.erase.beta_1 = 1e-3
    c.schedule.erase.alpha_bar_final = 1e-3
    c.reverse.prediction = "perturbation"
    c.reverse.variance = "sigmoid"
    c.network.name = "multiscale"
    c.network.multiscale.activation = "softplus_tanh"
    c.network.multiscale.num_layers = 0
    c.network.multiscale.dense_layers = 4
    c.network.multiscale.dense_features = 1000
    c.network.multiscale.pointwise_features = 100
    c.optimizer.learning_rate = 1e-3
    c.train.batch_size = 128
    c.train.steps = 50_000
    c.train.log_every = 100
    c.train.checkpoint_every = 1000
    c.evaluate.num_examples = 1000
    return c

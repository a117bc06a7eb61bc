"""Bark with the paper's network: 6 multiscale layers of 100 features, T = 1000, crops of a photograph.

Paper: Sohl-Dickstein et al. 2015, section 3.2.4 and appendix D.2, table 1; K = -0.55 bits/pixel, K - L_null = 1.5.
The paper has class T01 of another collection (Lazebnik et al. 2005); K depends on the photograph.
Command: python train.py --config=bark_paper --data_dir=FOLDER --config.data.folder.path=PHOTOGRAPH
"""

from ml_collections import ConfigDict

from dpm_jax.training import config


def get_config() -> ConfigDict:
    c = config.default()
    c.num_timesteps = 1000
    c.data.name = "folder"
    c.data.folder.path = "bark012_grey.png"
    c.data.folder.held_out = 0.2
    c.data.crop = 32
    c.schedule.name = "erase"
    c.schedule.erase.beta_1 = 1e-3
    c.schedule.erase.alpha_bar_final = 1e-3
    c.reverse.prediction = "perturbation"
    c.reverse.variance = "sigmoid"
    c.network.name = "multiscale"
    c.network.multiscale.activation = "softplus_tanh"
    c.network.multiscale.features = 100
    c.network.multiscale.num_layers = 6
    c.network.multiscale.num_scales = 3
    c.network.multiscale.pointwise_features = 100
    c.optimizer.learning_rate = 1e-3
    c.train.batch_size = 128
    c.train.steps = 200_000
    c.train.log_every = 100
    c.train.checkpoint_every = 1000
    c.evaluate.num_examples = 1000
    return c

"""MNIST as in DDPM: noise prediction, L_simple, T = 1000, linear beta from 1e-4 to 0.02, fixed small variance.

The network is that of `mnist`, the optimizer Adam; p(x_0 | x_1) is the network's, as in the paper.
`python -m examples.experiments mnist_objectives` compares it with the bound for the loss, all else alike.

Paper: Ho et al. 2020, "Denoising Diffusion Probabilistic Models", sections 3.2 to 3.4 and 4.
Command: python train.py --config=ddpm_mnist --data_dir=FOLDER
Expect, on 2 CPU cores, with --config.train.steps=2000: digits; K = 3.24 +- 0.04 bits/pixel, 3.06 bits/dim, discretised
2.42; 0.3 s a step. Evaluation takes its time, too: K calls the network at each of 1000 t.
"""

from ml_collections import ConfigDict

from dpm_jax.configs import mnist


def get_config() -> ConfigDict:
    c = mnist.get_config()
    c.num_timesteps = 1000
    c.edge = "decoder"
    c.schedule.name = "linear"
    c.schedule.linear.beta_1 = 1e-4
    c.schedule.linear.beta_final = 0.02
    c.reverse.prediction = "epsilon"
    c.reverse.variance = "small"
    c.optimizer.name, c.optimizer.learning_rate = "adam", 2e-3
    c.train.objective = "simple"
    c.train.emphasis = 0.0
    c.train.batch_size, c.train.steps = 64, 4000
    c.evaluate.num_examples = 128
    return c

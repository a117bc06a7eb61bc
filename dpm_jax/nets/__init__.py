"""Flax networks `(x_t, t) -> outputs`; `predictions` turns outputs into a model."""

from dpm_jax.nets.mlp import SigmoidMLP, TimeMLP
from dpm_jax.nets.multiscale import MultiscaleNet
from dpm_jax.nets.rbf import RBF
from dpm_jax.nets.unet import UNet

__all__ = ["RBF", "MultiscaleNet", "SigmoidMLP", "TimeMLP", "UNet"]

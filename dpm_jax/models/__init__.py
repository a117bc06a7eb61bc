"""Flax networks `(x_t, t) -> outputs`; the kernel turns outputs into a distribution. And a classifier of images."""

from dpm_jax.models.classifier import ConvClassifier
from dpm_jax.models.mlp import SigmoidMLP, TimeMLP
from dpm_jax.models.multiscale import MultiscaleNet
from dpm_jax.models.rbf import RBF
from dpm_jax.models.unet import UNet

__all__ = ["RBF", "ConvClassifier", "MultiscaleNet", "SigmoidMLP", "TimeMLP", "UNet"]

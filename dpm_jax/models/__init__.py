"""Flax networks `(x_t, t) -> outputs`; the kernel turns outputs into a distribution."""

from dpm_jax.models.mlp import SigmoidMLP, TimeMLP
from dpm_jax.models.multiscale import MultiscaleNet
from dpm_jax.models.rbf import RBF
from dpm_jax.models.unet import UNet

__all__ = ["RBF", "MultiscaleNet", "SigmoidMLP", "TimeMLP", "UNet"]

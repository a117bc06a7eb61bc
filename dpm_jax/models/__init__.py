"""Flax networks `(x_t, t) -> outputs`; the kernel turns outputs into a distribution."""

from dpm_jax.models.mlp import SigmoidMLP, TimeMLP
from dpm_jax.models.rbf import RBF

__all__ = ["RBF", "SigmoidMLP", "TimeMLP"]

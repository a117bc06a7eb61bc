"""Data sources. They know nothing of models."""

from dpm_jax.data.sources import Source
from dpm_jax.data.standardization import Standardization

__all__ = ["Source", "Standardization"]

"""Laws of x, as frozen pytree classes with methods; `base` has the protocol."""

from dpm_jax.distributions.base import Distribution, where
from dpm_jax.distributions.bernoulli import Bernoulli
from dpm_jax.distributions.full_normal import FullNormal
from dpm_jax.distributions.grid import Grid
from dpm_jax.distributions.normal import Normal

__all__ = ["Bernoulli", "Distribution", "FullNormal", "Grid", "Normal", "where"]

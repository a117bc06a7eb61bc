"""Forward chains: `base` has the protocol of four methods that a new process needs."""

from dpm_jax.processes.base import Process
from dpm_jax.processes.binomial import Binomial
from dpm_jax.processes.gaussian import Gaussian

__all__ = ["Binomial", "Gaussian", "Process"]

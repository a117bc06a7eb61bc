"""Diffusion probabilistic models (Sohl-Dickstein et al. 2015) as pure JAX functions.

A model is three things: a `schedules.Schedule`, a kernel (the module `gaussian` or
`binomial`), and a reverse function `(x_t, t) -> distribution`. `bound`, `sampling` and
`optimal` work with any of them. These modules need jax and numpy alone.
"""

from dpm_jax import binomial, bound, gaussian, optimal, sampling, schedules, timesteps, units

__version__ = "0.1.0"

__all__ = ["binomial", "bound", "gaussian", "optimal", "sampling", "schedules", "timesteps", "units"]

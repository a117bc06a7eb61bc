"""Diffusion probabilistic models (Sohl-Dickstein et al. 2015) as pure JAX functions.

A `Schedule` says how fast data are destroyed; a process (`Gaussian`, `Binomial`) is the forward chain that it makes; a
`Model` is a process and a denoiser `(x_t, t) -> distribution of x_0`. Everything else is a function from a model to
a model, or from a model to numbers. These modules need jax and numpy alone.

`load`, `fit` and `Run` are trained models, in the data's own units. They are imported when they are first used, and
need the extra `train`: pip install 'dpm_jax[train]'.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dpm_jax import (
    bound,
    cold,
    coloured,
    degradations,
    distributions,
    entropy,
    grey_levels,
    guidance,
    likelihood,
    objectives,
    optimal,
    predictions,
    processes,
    respacing,
    sampling,
    schedules,
    smc,
    spectrum,
    timesteps,
    truncated_normal,
    units,
)
from dpm_jax.ddim import ddim
from dpm_jax.distributions import Bernoulli, FullNormal, Normal, level
from dpm_jax.errors import missing_extra
from dpm_jax.model import Model, forward_edge
from dpm_jax.processes import Binomial, Gaussian
from dpm_jax.respacing import respace
from dpm_jax.sampling import sample
from dpm_jax.schedules import Schedule

if TYPE_CHECKING:
    from dpm_jax.fitting import fit as fit
    from dpm_jax.run import Run as Run
    from dpm_jax.run import load as load

__version__ = "0.2.0"

__all__ = [
    "Bernoulli",
    "Binomial",
    "FullNormal",
    "Gaussian",
    "Model",
    "Normal",
    "Schedule",
    "bound",
    "cold",
    "coloured",
    "ddim",
    "degradations",
    "distributions",
    "entropy",
    "forward_edge",
    "grey_levels",
    "guidance",
    "level",
    "likelihood",
    "objectives",
    "optimal",
    "predictions",
    "processes",
    "respace",
    "respacing",
    "sample",
    "sampling",
    "schedules",
    "smc",
    "spectrum",
    "timesteps",
    "truncated_normal",
    "units",
]

# Where they are. Not in __all__: `from dpm_jax import *` needs jax and numpy alone.
_LATER = {"Run": "dpm_jax.run", "fit": "dpm_jax.fitting", "load": "dpm_jax.run"}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        try:
            return getattr(importlib.import_module(_LATER[name]), name)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(missing_extra(f"dpm_jax.{name}", error), name=error.name) from error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})

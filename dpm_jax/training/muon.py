"""Muon (Jordan et al. 2024) for networks of convolutions: Optax's, told which parameters are matrices.

The update of a matrix is its momentum with all singular values made alike. A kernel counts as the matrix that takes
what one output sees, a window of all inputs, to the outputs. Biases, scales, and all that is not of the network go to
Adam with Nesterov's momentum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers

__all__ = ["muon"]


def muon(
    learning_rate: float | Callable[[Any], Any],
    rms: float = 0.2,
    beta: float = 0.95,
    b1: float = 0.9,
    b2: float = 0.999,
) -> optax.GradientTransformation:
    """Return the optimizer.

    Args:
      learning_rate: or a schedule of it, as of Adam.
      rms: root mean square of a matrix's update, in learning rates; Adam's is 0.2 to 0.4 (Liu et al. 2025), so that a
        rate found for Adam serves.
      beta: decay of the momentum of matrices.
      b1: as of Adam, of all else.
      b2: likewise.
    """
    made: optax.GradientTransformation = optax.contrib.muon(
        learning_rate,
        beta=beta,
        consistent_rms=rms,
        adam_b1=b1,
        adam_b2=b2,
        muon_weight_dimension_numbers=lambda params: jax.tree_util.tree_map_with_path(_matrix, params),
    )
    return made


def _matrix(path: tuple[Any, ...], parameter: Any) -> MuonDimensionNumbers | None:
    """Return which axes of a parameter are inputs and outputs of a matrix; None if it is none."""
    *_, layer, name = ("", *(getattr(key, "key", "") for key in path))
    if name != "kernel" or parameter.ndim < 2:
        return None
    # Attention has several heads of outputs for each input.
    num_inputs = 1 if layer in ("query", "key", "value") else parameter.ndim - 1
    axes = tuple(range(parameter.ndim))
    return MuonDimensionNumbers(axes[:num_inputs], axes[num_inputs:])

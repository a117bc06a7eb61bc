"""Muon (Jordan et al. 2024) for networks of convolutions: Optax's, told which parameters are matrices.

The update of a matrix is its momentum with its singular values made alike, by a few Newton-Schulz iterations that begin
at rows scaled to be almost orthogonal (Boissin et al. 2025), which saves some. A kernel counts as the matrix that takes
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

# Optax takes squared norms of rows to be 1e-8 at least, which gradients of a large network come close to. Muon itself
# has no scale, so it is given them times a power of two, and Adam an epsilon that is as much larger.
_SCALE = 2.0**24
_EPSILON = 1e-8


def muon(
    learning_rate: float | Callable[[Any], Any],
    rms: float = 0.2,
    beta: float = 0.95,
    iterations: int = 3,
    precision: str = "highest",
    b1: float = 0.9,
    b2: float = 0.999,
) -> optax.GradientTransformation:
    """Return the optimizer.

    Args:
      learning_rate: or a schedule of it, as of Adam.
      rms: root mean square of a matrix's update, in learning rates; Adam's is 0.2 to 0.4 (Liu et al. 2025), so that a
        rate found for Adam serves.
      beta: decay of the momentum of matrices.
      iterations: of Newton and Schulz; the more, the more alike the singular values are.
      precision: bits that accelerators multiply the matrices of the iterations in; highest is float32. Jordan et al. do
        with bfloat16, on TPUs default, which takes a sixth of the time.
      b1: as of Adam, of all else.
      b2: likewise.
    """
    made = optax.contrib.muon(
        learning_rate,
        beta=beta,
        ns_steps=iterations,
        preconditioning="aol",
        consistent_rms=rms,
        eps=_EPSILON * _SCALE,
        adam_b1=b1,
        adam_b2=b2,
        muon_weight_dimension_numbers=lambda params: jax.tree_util.tree_map_with_path(_matrix, params),
    )
    scaled = optax.chain(optax.scale(_SCALE), made)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        with jax.default_matmul_precision(precision):
            return scaled.update(updates, state, params)

    return optax.GradientTransformation(scaled.init, update)


def _matrix(path: tuple[Any, ...], parameter: Any) -> MuonDimensionNumbers | None:
    """Return which axes of a parameter are inputs and outputs of a matrix; None if it is none."""
    *_, layer, name = ("", *(getattr(key, "key", "") for key in path))
    if name != "kernel" or parameter.ndim < 2:
        return None
    # Attention has several heads of outputs for each input.
    num_inputs = 1 if layer in ("query", "key", "value") else parameter.ndim - 1
    axes = tuple(range(parameter.ndim))
    return MuonDimensionNumbers(axes[:num_inputs], axes[num_inputs:])

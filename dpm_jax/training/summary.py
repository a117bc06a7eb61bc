"""A line about the size and the cost of a network."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dpm_jax.training.experiment import Experiment

__all__ = ["summary"]


def summary(experiment: Experiment) -> str:
    """Return in words what a network costs: parameters, and FLOPs of a forward pass an example as XLA counts them.

    A second line says where a group normalisation has one group in place of those wanted.
    """
    params = jax.eval_shape(experiment.init, jax.random.key(0))
    num_params = sum(leaf.size for leaf in jax.tree.leaves(params))
    x, t = jax.ShapeDtypeStruct((1, *experiment.shape), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)
    cost = jax.jit(experiment.network).lower(params, x, t).cost_analysis()
    flops = (cost or {}).get("flops", float("nan"))
    line = f"{experiment.config.network.name}: {num_params:,} parameters, {flops / 1e6:,.2f} MFLOP an example"
    if groups := getattr(experiment.module, "num_groups", None):
        normalised = [
            leaf.size for path, leaf in jax.tree_util.tree_leaves_with_path(params) if "GroupNorm" in str(path)
        ]
        if whole := sorted({width for width in normalised if width % groups}):
            widths = ", ".join(map(str, whole))
            line += f"\nnetwork.unet.num_groups: {groups} does not divide {widths} channels, which have one group"
    return line

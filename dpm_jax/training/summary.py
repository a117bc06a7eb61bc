"""What a network costs."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dpm_jax.experiment import Experiment

__all__ = ["summary"]


def summary(experiment: Experiment) -> str:
    """One line: parameters, and FLOPs of a forward pass an example as XLA counts them."""
    params = jax.eval_shape(experiment.init, jax.random.key(0))
    num_params = sum(leaf.size for leaf in jax.tree.leaves(params))
    x, t = jax.ShapeDtypeStruct((1, *experiment.shape), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)
    cost = jax.jit(experiment.network).lower(params, x, t).cost_analysis()
    flops = (cost or {}).get("flops", float("nan"))
    return f"{experiment.config.network.name}: {num_params:,} parameters, {flops / 1e6:,.2f} MFLOP an example"

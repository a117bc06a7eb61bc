"""The work in diffusionjax: its loss, its DDPM chain, its sampler, and a train step as its own is."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import optax
from diffusionjax.sde import VP
from diffusionjax.solvers import DDPM, EulerMaruyama
from diffusionjax.utils import get_linear_beta_function, get_loss, get_sampler, get_score, get_times

from benchmarks.peers import networks, work


def _both(module: Any, shape: tuple[int, ...], batch: int, jitted_steps: int, steps: int) -> tuple[float, float, str]:
    """Seconds of a train step and of a reverse step, and the size."""
    scale = work.NUM_TIMESTEPS
    beta, mean_coeff = get_linear_beta_function(work.BETA_1 * scale, work.BETA_FINAL * scale)
    sde = VP(beta=beta, mean_coeff=mean_coeff)
    params = module.init(jax.random.key(0), jnp.zeros((batch, *shape)), jnp.ones((batch,)))
    size = networks.size(module, params, shape)
    ts, _ = get_times(num_steps=work.NUM_TIMESTEPS)
    score = get_score(sde, module, params, score_scaling=True)
    solver = EulerMaruyama(sde.reverse(score), ts)
    loss = get_loss(sde, solver, module, score_scaling=True, likelihood_weighting=False)
    optimizer = optax.chain(optax.clip_by_global_norm(work.CLIP_NORM), optax.adam(work.LEARNING_RATE))
    x_0 = jax.random.normal(jax.random.key(1), (batch, *shape))

    def step(carry: Any, x_0: Any) -> Any:
        key, params, average, opt_state = carry
        key, step_key = jax.random.split(key)
        value, grads = jax.value_and_grad(loss)(params, step_key, x_0)
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        average = optax.incremental_update(params, average, 1 - work.EMA_DECAY)
        return (key, params, average, opt_state), value

    # Several steps in one go by a scan, as its n_jitted_steps.
    batches = jnp.broadcast_to(x_0, (jitted_steps, *x_0.shape))
    run = (
        jax.jit(lambda carry: jax.lax.scan(step, carry, batches))
        if jitted_steps > 1
        else jax.jit(lambda carry: step(carry, x_0))
    )
    state = [(jax.random.key(2), params, params, optimizer.init(params))]

    def train() -> None:
        state[0], value = run(state[0])
        jax.block_until_ready(value)

    training = work.taken(train, jitted_steps)
    chain = DDPM(score, beta=beta, ts=get_times(num_steps=steps)[0])
    draw = jax.jit(get_sampler((batch, *shape), chain))
    drawing = work.taken(lambda: jax.block_until_ready(draw(jax.random.key(3))), steps)
    return training, drawing, size


def main() -> None:
    """Measure, and tell."""
    side, steps = work.UNET_SIDE, work.NUM_TIMESTEPS
    mlp_found = _both(networks.MLP(), (2,), work.MLP_BATCH, work.MLP_TRAIN_STEPS, steps)
    # One step at a time: Flax's convolutions are slow in loops.
    unet_found = _both(networks.StockUNet(), (side, side, 1), work.UNET_BATCH, 1, work.UNET_STEPS)
    work.tell(f"diffusionjax {version('diffusionjax')}, jax {jax.__version__}", mlp_found, unet_found)


if __name__ == "__main__":
    main()

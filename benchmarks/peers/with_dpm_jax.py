"""The work in this project."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.peers import networks, work
from dpm_jax import objectives, predictions, respacing, sampling
from dpm_jax.model import Model
from dpm_jax.training import build, step
from dpm_jax.training import config as config_lib
from dpm_jax.training.experiment import Experiment


def _experiment(shape: tuple[int, ...], module: Any) -> Experiment:
    """DDPM's recipe, with any network in the place of the config's."""
    c = config_lib.default()
    c.num_timesteps, c.edge = work.NUM_TIMESTEPS, "decoder"
    c.schedule.name = "linear"
    c.schedule.linear.beta_1, c.schedule.linear.beta_final = work.BETA_1, work.BETA_FINAL
    c.reverse.prediction, c.reverse.variance = "epsilon", "small"
    c.train.objective, c.train.time_sampler = "simple", "uniform"
    c.optimizer.learning_rate, c.optimizer.warmup_steps = work.LEARNING_RATE, 0
    c.optimizer.decay.name = "constant_schedule"
    c.optimizer.clip_norm, c.optimizer.ema_decay = work.CLIP_NORM, work.EMA_DECAY
    built = build.experiment(c, (2,))
    process: Any = built.model(built.init(jax.random.key(0))).process

    def model(params: Any, key: Any = None) -> Model:
        network = partial(module.apply, params)
        return predictions.gaussian(process, network, prediction="epsilon", variance="small")

    def loss(params: Any, key: Any, x_0: Any, memory: Any) -> Any:
        return objectives.simple(key, model(params), x_0), memory

    def init(key: Any) -> Any:
        return module.init(key, jnp.zeros((1, *shape)), jnp.ones(1, jnp.int32))

    return built._replace(shape=shape, init=init, model=model, loss=loss)


def _both(module: Any, shape: tuple[int, ...], batch: int, train_steps: int, steps: int) -> tuple[float, float, str]:
    """Seconds of a train step and of a reverse step, and the size."""
    built = _experiment(shape, module)
    x_0 = jax.random.normal(jax.random.key(1), (batch, *shape))
    run_steps = step.make_run_steps(built, lambda key, _: x_0)
    state = [step.init(built)]
    size = networks.size(module, state[0].params, shape)

    def train() -> None:
        state[0], progress = run_steps(state[0], train_steps, None)
        jax.block_until_ready(progress)

    training = work.taken(train, train_steps)

    @jax.jit
    def draw(params: Any, key: Any) -> Any:
        model = built.model(params)
        if steps < model.num_timesteps:
            model = respacing.respace(model, respacing.uniform(model.num_timesteps, steps))
        return sampling.sample(key, model, batch, shape)

    params = step.averaged_params(built, state[0])
    drawing = work.taken(lambda: draw(params, jax.random.key(2)).block_until_ready(), steps)
    return training, drawing, size


def main() -> None:
    """Measure, and tell."""
    mlp = networks.Fractional(networks.MLP())
    unet = networks.unet(networks.fraction)
    side, steps = work.UNET_SIDE, work.NUM_TIMESTEPS
    mlp_found = _both(mlp, (2,), work.MLP_BATCH, work.MLP_TRAIN_STEPS, steps)
    unet_found = _both(unet, (side, side, 1), work.UNET_BATCH, work.UNET_TRAIN_STEPS, work.UNET_STEPS)
    work.tell(f"dpm_jax, jax {jax.__version__}", mlp_found, unet_found)


if __name__ == "__main__":
    main()

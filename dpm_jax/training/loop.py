"""The training loop: dispatches, logs, checkpoints; stops at the first sign of trouble."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from dpm_jax.data.sources import Supply
from dpm_jax.errors import UserError
from dpm_jax.experiment import Experiment, Params
from dpm_jax.training import feed
from dpm_jax.training import step as step_lib
from dpm_jax.training.checkpoints import Checkpoints
from dpm_jax.training.metrics import MetricsWriter
from dpm_jax.units import bits, num_parts

__all__ = ["load_params", "train"]


def train(
    experiment: Experiment,
    supply: Supply,
    workdir: Path,
    report: Callable[[str], None] = print,
) -> tuple[int, Params]:
    """Train to `config.train.steps`, going on from the newest checkpoint of `workdir`, if there is one.

    Args:
      experiment: what to train.
      supply: of a `Source`.
      workdir: see `workdir.claim`.
      report: told in words what goes on.

    Returns:
      The step reached, which is later than `config.train.steps` if the checkpoint was, and the averaged parameters.

    Raises:
      UserError: if the checkpoint can't be read, or a loss is not finite (the last checkpoint stays).
    """
    config, settings = experiment.config, experiment.config.train
    state = step_lib.init(experiment)
    with Checkpoints(workdir) as checkpoints:
        if checkpoints.latest() is not None:
            state = checkpoints.restore(state)
            report(f"going on from step {int(state.step)} in {workdir}")
        step = int(state.step)
        data = feed.open_feed(supply, config.seed, settings.batch_size, step, settings.log_every)
        run_steps = step_lib.make_run_steps(experiment, data.draw)
        periods = settings.log_every, settings.checkpoint_every, data.capacity or settings.log_every

        def ahead() -> tuple[int, Any]:
            """Length and batches of the next dispatch; none of either at the end."""
            num = _until_boundary(step, settings.steps, *periods) if step < settings.steps else 0
            return num, data.take(num) if num else None

        num, batches = ahead()
        with MetricsWriter(workdir, step) as metrics, _bar(step, settings.steps) as bar:
            while num:
                started = time.perf_counter()
                state, progress = run_steps(state, num, batches)
                step, taken = step + num, num
                # While the device works on this dispatch, the host makes the batches of the next.
                num, batches = ahead()
                if (failed_at := int(progress.failed_at)) >= 0:
                    kept = checkpoints.latest()
                    where = "no checkpoint was made" if kept is None else f"the checkpoint of step {kept} is kept"
                    raise UserError(
                        f"loss not finite at step {failed_at}; {where}; try a lower optimizer.learning_rate"
                    )
                loss, name, unit = float(progress.loss), "loss", ""
                if experiment.loss_is_bound:
                    loss, name, unit = bits(loss) / num_parts(experiment.shape), "loss_bits", " bits"
                rate = taken / (time.perf_counter() - started)
                metrics.scalars(
                    step,
                    {
                        name: loss,
                        "grad_norm": float(progress.grad_norm),
                        "learning_rate": float(experiment.learning_rate(state.step)),
                        "steps_per_second": rate,
                    },
                )
                bar.set_postfix_str(f"loss {loss:.3f}{unit}, {rate:.0f} steps/s")
                bar.update(taken)
                if step % settings.checkpoint_every == 0 or step == settings.steps:
                    checkpoints.save(step, state)
    return step, step_lib.averaged_params(experiment, state)


def load_params(experiment: Experiment, workdir: Path) -> tuple[int, Params]:
    """Step and averaged parameters of the newest checkpoint.

    Raises:
      UserError: if there is no checkpoint, or it is damaged.
    """
    with Checkpoints(workdir, read_only=True) as checkpoints:
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        shapes = jax.eval_shape(lambda: step_lib.init(experiment))
        # Where the arrays go is said here, so that a model trained on another machine can be read on this one.
        like = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here), shapes)
        state = checkpoints.restore(like)
    return int(state.step), step_lib.averaged_params(experiment, state)


def _bar(step: int, total: int) -> tqdm:
    return tqdm(initial=step, total=total, desc="training", unit="step", mininterval=0.5)


def _until_boundary(step: int, last: int, *periods: int) -> int:
    """Steps to the next multiple of any period, or to the last step."""
    return min([last - step] + [period - step % period for period in periods])

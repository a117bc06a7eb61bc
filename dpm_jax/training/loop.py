"""The training loop: dispatches, logs, checkpoints; stops on request, or when losses are not finite."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from tqdm import tqdm

from dpm_jax.data.sources import Source
from dpm_jax.errors import UserError
from dpm_jax.training import chips, cost, feed, mesh, saved
from dpm_jax.training import step as step_lib
from dpm_jax.training.checkpoints import Checkpoints, Which
from dpm_jax.training.experiment import Experiment, Params
from dpm_jax.training.hosts import decided_by_first, together
from dpm_jax.training.metrics import MetricsWriter
from dpm_jax.training.profile import Profile
from dpm_jax.training.programs import abstract_state
from dpm_jax.training.progress import bar
from dpm_jax.training.step import Progress
from dpm_jax.training.stop import StopSignal
from dpm_jax.training.validation import Validation, difference, validate
from dpm_jax.units import bits, num_parts

__all__ = ["Result", "load_params", "newest_step", "train"]


class Result(NamedTuple):
    """Where training has come to.

    Attributes:
      step: reached; later than `config.train.steps` if the checkpoint was.
      params: averaged.
      stopped: whether it stopped on request before the end, after saving a checkpoint.
    """

    step: int
    params: Params
    stopped: bool


class _Dispatch(NamedTuple):
    """One that is under way.

    Attributes:
      step: its last.
      num: how many steps it has.
      whole: whether it ends where a line is logged; if not, the next one's progress has its own in it.
      progress: what will come of it.
    """

    step: int
    num: int
    whole: bool
    progress: Progress


def train(
    experiment: Experiment,
    source: Source,
    workdir: Path,
    report: Callable[[str], None] = print,
    profile: tuple[int, int] | None = None,
    initial: Params | None = None,
) -> Result:
    """Train to `config.train.steps`, resuming from the newest good checkpoint of `workdir`, if there is one.

    SIGTERM, Ctrl-C, and the preemption notice of a pod end it early: the dispatch that is under way is finished, and
    saved.

    Args:
      experiment: what to train.
      source: to train on; its validation examples say which checkpoint is the best.
      workdir: see `workdir.claim`.
      report: called with lines of progress.
      profile: first and last of the steps that are traced, see `profile`; None for no trace.
      initial: parameters that a new run starts from, see `warm_start`; not used where there is a checkpoint.

    Raises:
      UserError: if the checkpoints can't be read or written, or `train.max_skipped` losses in a row are not finite
        (the last checkpoint stays).
      KeyboardInterrupt: at a second Ctrl-C; it says which checkpoint there is.
    """
    settings = experiment.train
    with Checkpoints(workdir, keep_every=settings.keep_every, report=report) as checkpoints:
        if decided_by_first(checkpoints.latest) is None:
            # A copy, for the state is donated.
            start = jax.jit(lambda params: mesh.shard(step_lib.init(experiment, jax.tree.map(jnp.array, params))))
            state = start(initial)
        else:
            state = checkpoints.restore(abstract_state(experiment))
            report(f"resuming from step {int(state.step)} in {workdir}")
        step = int(state.step)
        data = feed.open_feed(source.supply, experiment.seed, settings.batch_size, step, settings.log_every)
        run_steps = step_lib.make_run_steps(experiment, data.draw)
        periods = settings.log_every, settings.checkpoint_every, data.capacity or settings.log_every

        def ahead(most: int) -> tuple[int, bool, Any]:
            """Return the length of the next dispatch, whether a line is logged at its end, and its batches."""
            if step >= settings.steps:
                return 0, True, None
            whole = _until_boundary(step, settings.steps, periods, profile or ())
            num = min(whole, most)
            return num, num == whole, data.take(num)

        # The first has one step: it shows at once that what had to be compiled is compiled, and works.
        num, whole, batches = ahead(most=1)
        if not num:
            return Result(step, step_lib.averaged_params(experiment, state), stopped=False)
        find_loss = validate(experiment, source)
        nothing = so_far = jax.jit(lambda: mesh.gather(step_lib.no_progress()))()
        with (
            _writer(workdir, step) as metrics,
            bar("training", settings.steps, "step", step, leave=True) as shown,
            StopSignal(lambda text: tqdm.write(text, sys.stderr)) as stop,
            Profile(workdir, profile) as tracing,
            _interrupted(checkpoints),
        ):
            shown.set_postfix_str("compiling")
            log = _Log(experiment, checkpoints, metrics, shown, source.unit, _best_rate(experiment))
            stopped = False
            while num and not stopped:
                tracing.before(step)
                state, progress = run_steps(state, num, batches, so_far)
                step += num
                so_far = nothing if whole else progress
                dispatch = _Dispatch(step, num, whole, progress)
                # While the device works on this, the host makes the batches of the next, and tells of the last.
                num, whole, batches = ahead(settings.steps)
                log.finish_last()
                log.last = dispatch
                tracing.after(step, state)
                stopped = stop.asked()
                if step % settings.checkpoint_every == 0 or not num or stopped:
                    with log.pause():
                        found = find_loss(state)
                        log.finish_last(found)
                        # A state after a skipped step is that of the last good one.
                        checkpoints.save(step, state, found.rounds)
            if stopped:
                checkpoints.wait()
            else:
                _say_which_is_best(experiment, checkpoints, report)
    return Result(step, step_lib.averaged_params(experiment, state), stopped)


@contextmanager
def _interrupted(checkpoints: Checkpoints) -> Iterator[None]:
    """Make what an interrupt says true: which checkpoint there is."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(checkpoints.kept()) from None


class _Log:
    """Tells of dispatches, each when the next is under way, so that the device never waits for it."""

    def __init__(
        self,
        experiment: Experiment,
        checkpoints: Checkpoints,
        metrics: MetricsWriter | None,
        bar: tqdm,
        unit: str,
        best_rate: float | None,
    ) -> None:
        self.last: _Dispatch | None = None
        self._unit = unit
        self._best_rate = best_rate
        self._experiment, self._checkpoints, self._metrics, self._bar = experiment, checkpoints, metrics, bar
        self._finished = time.perf_counter()
        self._paused: float | None = None

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Wait for the last dispatch; what is done then is not counted as training."""
        if self.last is not None:
            jax.block_until_ready(self.last.progress)
        self._paused = time.perf_counter()
        yield
        self._paused, self._finished = None, time.perf_counter()

    def finish_last(self, found: Validation | None = None) -> None:
        """Wait for the last dispatch, and tell of it; of its state's validation loss, where that is known."""
        if self.last is None:
            return
        step, num, whole, on_device = self.last
        self.last = None
        # The one thing that is waited for and read; nothing is asked of the device, which has the next to do.
        progress = jax.device_get(on_device)
        if (failed_at := int(progress.failed_at)) >= 0:
            most = self._experiment.train.max_skipped
            raise UserError(
                f"loss or gradient not finite at step {failed_at}, the {most}. in a row; {self._checkpoints.kept()}; "
                "try a lower optimizer.learning_rate or clip_norm, or --debug_nans to see where it comes from"
            )
        if not whole and found is None:
            self._bar.set_postfix_str("", refresh=False)
            self._bar.update(num)
            self._finished = time.perf_counter()
            return
        now = time.perf_counter() if self._paused is None else self._paused
        rate, self._finished = num / (now - self._finished), now
        key, loss, shown = "loss", progress.loss, f"loss {progress.loss:.3f}"
        if self._experiment.loss_is_bound:
            # As reports give it: K, not -K.
            weighted = self._experiment.train.emphasis > 0
            key, loss = ("weighted" if weighted else "training") + "_bits", self._in_bits(-loss)
            shown = f"{'weighted ' if weighted else ''}K {loss:.3f} {self._unit}"
        values = {
            key: loss,
            "grad_norm": progress.grad_norm,
            "learning_rate": float(progress.learning_rate),
            "steps_per_second": rate,
            "skipped": int(progress.num_skipped),
        }
        if found is not None and self._experiment.validation_is_bound:
            values["validation_bits"] = self._in_bits(-found.mean)
            values["validation_stderr_bits"] = self._in_bits(found.stderr)
        elif found is not None:
            values |= {"validation_loss": found.mean, "validation_stderr": found.stderr}
        if self._best_rate is not None:
            values["utilization"] = rate / self._best_rate
        if self._metrics is not None:
            self._metrics.scalars(step, values)
            if found is not None:
                # Before the checkpoint, so that no line is missing where a run resumes from it.
                self._metrics.push()
        skipped = f", {values['skipped']} skipped" if values["skipped"] else ""
        self._bar.set_postfix_str(f"{shown}, {rate:.0f} steps/s{skipped}", refresh=False)
        self._bar.update(num)

    def _in_bits(self, nats: float) -> float:
        """Convert nats an example to bits of the data's unit."""
        return float(bits(nats)) / num_parts(self._experiment.shape)


def _say_which_is_best(experiment: Experiment, checkpoints: Checkpoints, report: Callable[[str], None]) -> None:
    """At the end of training: whether an earlier checkpoint is better than the last, and by how much."""
    last, best = checkpoints.latest(), checkpoints.best()
    if last is None or best is None or best == last:
        return
    mean, stderr = difference(checkpoints.losses(last), checkpoints.losses(best))
    unit = ""
    if experiment.validation_is_bound:
        mean, stderr = (float(bits(value)) / num_parts(experiment.shape) for value in (mean, stderr))
        unit = " bits"
    # Of a single round nothing is known of its error.
    error = f" +- {stderr:.4f}" if math.isfinite(stderr) else ""
    report(
        f"on validation examples the checkpoint of step {best} is better than that of step {last}, by {mean:.4f}{error}"
        f"{unit}; --checkpoint=best has evaluate.py and sample.py use it"
    )


def load_params(
    experiment: Experiment, workdir: Path, report: Callable[[str], None] = print, which: Which = "newest"
) -> tuple[int, Params]:
    """Step and averaged parameters of a checkpoint.

    Args:
      experiment: what was trained.
      workdir: see `workdir.claim`.
      report: called with a line for each checkpoint that cannot be read.
      which: see `Checkpoints.restore`.

    Raises:
      UserError: if there is none.
    """
    if saved.is_saved(workdir):
        step, params = saved.load(workdir, experiment)
        if which not in ("newest", step):
            raise UserError(f"{workdir}: holds the parameters of step {step} alone, got checkpoint {which!r}")
        return step, params
    with Checkpoints(workdir, read_only=True, report=report) as checkpoints:
        state = checkpoints.restore(abstract_state(experiment), which)
    return int(state.step), step_lib.averaged_params(experiment, state)


def newest_step(workdir: Path) -> int | None:
    """Return the step of the newest checkpoint; None if there is none."""
    if saved.is_saved(workdir):
        return saved.step(workdir)
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return checkpoints.latest()


def _best_rate(experiment: Experiment) -> float | None:
    """Return steps a second if all devices did matrix products alone at their best; None for unknown devices."""
    chip = chips.chip(jax.devices()[0].device_kind)
    return chip and jax.device_count() * chip.flops / cost.step_flops(experiment, abstract_state(experiment))


def _writer(workdir: Path, step: int) -> AbstractContextManager[MetricsWriter | None]:
    """Return that of metrics, in the first process: the others have the same."""
    with together():
        return MetricsWriter(workdir, step) if jax.process_index() == 0 else nullcontext()


def _until_boundary(step: int, last: int, periods: tuple[int, ...], stops: tuple[int, ...]) -> int:
    """Return steps to the next multiple of any period, to the next of `stops`, or to the last step."""
    ahead = [stop - step for stop in stops if stop > step]
    return min([last - step, *ahead, *(period - step % period for period in periods)])

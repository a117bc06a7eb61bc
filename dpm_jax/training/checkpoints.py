"""Checkpoints. Every call to Orbax is in this file."""

from __future__ import annotations

import contextlib
import io
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import preservation_policy, save_decision_policy

from dpm_jax.errors import UserError

__all__ = ["Checkpoints"]

# Orbax and its helpers tell of every save and restore; what goes wrong comes as an exception.
logging.set_verbosity(logging.ERROR)


class Checkpoints:
    """The checkpoints of one workdir: the newest two, that with the least loss, and, if wanted, every N-th, are kept.

    Saving goes on in the background, and a checkpoint appears under its name when it is whole. A context manager:
    on leaving it, what is being saved is finished.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        keep_every: int = 0,
        read_only: bool = False,
        report: Callable[[str], None] = print,
    ) -> None:
        """Open `workdir`/checkpoints.

        Args:
          workdir: of the run.
          keep_every: steps; checkpoints at its multiples are kept for good. 0: none of them.
          read_only: nothing is written, nor deleted.
          report: told of checkpoints that can't be read.

        Raises:
          UserError: if the folder can't be made.
        """
        self._path = workdir.absolute() / "checkpoints"
        self._read_only, self._report = read_only, report
        kept: list[preservation_policy.PreservationPolicy] = [
            preservation_policy.LatestN(2),
            preservation_policy.BestN(get_metric_fn=lambda metrics: -metrics["loss"], n=1),
        ]
        if keep_every:
            kept.append(preservation_policy.EveryNSteps(keep_every))
        options = ocp.CheckpointManagerOptions(
            # When to save is the training loop's business; every save it asks for is made.
            save_decision_policy=save_decision_policy.FixedIntervalPolicy(1),
            preservation_policy=preservation_policy.AnyPreservationPolicy(kept),
            create=not read_only,
            read_only=read_only,
        )
        try:
            self._manager = ocp.CheckpointManager(self._path, options=options)
        except OSError as error:
            raise UserError(f"{self._path}: {error.strerror or error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            # What went wrong first is what is told.
            with contextlib.suppress(Exception):
                self._manager.close()
            return
        self.wait()
        self._manager.close()

    def latest(self) -> int | None:
        """The step of the newest checkpoint; None if there is none."""
        step: int | None = self._manager.latest_step()
        return step

    def save(self, step: int, tree: Any, loss: float) -> None:
        """Save a pytree of arrays as the checkpoint of `step`; does nothing if that step is saved already.

        Args:
          step: of training.
          tree: arrays.
          loss: by which the best is kept.

        Raises:
          UserError: if it, or the one before it, can't be written.
        """
        if self._manager.latest_step() == step:
            return
        with self._writing():
            self._manager.save(step, args=ocp.args.StandardSave(tree), metrics={"loss": loss})

    def wait(self) -> None:
        """Until all that is being saved is whole.

        Raises:
          UserError: if it can't be written.
        """
        with self._writing():
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One line for whatever goes wrong in a save, or in the one before it that went on in the background."""
        try:
            yield
        # A disk that is full shows as OSError, ValueError, or what the layer in between makes of it.
        except Exception as error:
            whole = sorted(int(folder.name) for folder in self._path.iterdir() if folder.name.isdigit())
            good = f"the checkpoint of step {whole[-1]} is whole" if whole else "there is none yet"
            raise UserError(f"{self._path}: a checkpoint can't be written: {_reason(error)}; {good}") from error

    def restore(self, like: Any) -> Any:
        """The newest checkpoint that can be read, with the structure, shapes, dtypes and places of `like`.

        Those newer than it are set aside, as STEP.damaged, unless all is read only.

        Raises:
          UserError: if there is none, or none that can be read.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        if not steps:
            raise UserError(f"{self._path}: no checkpoint here; train first")
        damaged: dict[int, str] = {}
        for step in steps:
            try:
                tree = self._read(step, like)
            except UserError as error:
                damaged[step] = str(error)
                continue
            for number, reason in damaged.items():
                self._report(f"{reason}; the checkpoint of step {step} is used in its place")
                if not self._read_only:
                    self._set_aside(number)
            return tree
        raise UserError(damaged[steps[0]])

    def _read(self, step: int, like: Any) -> Any:
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        # Threads of a read that fails print tracebacks, some a moment later; the reason below says it all.
        with contextlib.redirect_stderr(io.StringIO()):
            try:
                return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
            # Damage shows as whatever the layer that met it raises: ValueError, OSError, KeyError, ...
            except Exception as error:
                time.sleep(0.3)
                where = self._path / str(step)
                raise UserError(f"{where}: damaged or of another model: {_reason(error)}") from error

    def _set_aside(self, step: int) -> None:
        if jax.process_index() == 0:
            aside = self._path / f"{step}.damaged"
            shutil.rmtree(aside, ignore_errors=True)
            (self._path / str(step)).rename(aside)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("set aside")
        self._manager.reload()


def _reason(error: Exception) -> str:
    """What an exception says, in its first line that says anything."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return first[:200]

"""Checkpoints. Every call to Orbax is in this file."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from time import sleep
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy, save_decision_policy

from dpm_jax.errors import UserError
from dpm_jax.training import checksums
from dpm_jax.training.hosts import decided_by_first, together
from dpm_jax.training.storage import is_remote, write_json

__all__ = ["Checkpoints", "Which"]

Which = Literal["newest", "best"] | int
T = TypeVar("T")

# Seconds before each new attempt to read what can't be read just now.
_WAITS = (1.0, 4.0)


class _Record:
    """Losses of every checkpoint, in a separate file: a damaged checkpoint takes Orbax's record of its loss with it.

    A list of losses for each, one a round of `validation`; a number alone, in files of older versions, is one round.
    Also the policy by which Orbax keeps the best.
    """

    def __init__(self, path: Path) -> None:
        """Read `path`, if it is there; of what is damaged nothing is known."""
        self._path = path
        self._losses: dict[int, list[float]] = {}
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            found = json.loads(path.read_text())
            self._losses = {int(step): np.atleast_1d(np.asarray(v, float)).tolist() for step, v in found.items()}

    def add(self, step: int, losses: float | Sequence[float]) -> None:
        """Remember, in all processes; the first writes it down."""
        self._losses[step] = np.atleast_1d(losses).tolist()
        if jax.process_index() == 0:
            write_json(self._path, self._losses, indent=None)

    def losses(self, step: int) -> list[float]:
        """Return the validation losses of a step, one a round."""
        return self._losses.get(step, [])

    def best(self, steps: Sequence[int]) -> int | None:
        """Return that of these steps with the least loss in the rounds that all have; None if none is known."""
        known = [step for step in steps if self.losses(step) and np.isfinite(self.losses(step)).all()]
        num = min((len(self.losses(step)) for step in known), default=0)
        return min(known, key=lambda step: np.mean(self.losses(step)[:num]), default=None)

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """As Orbax asks it."""
        best = self.best([checkpoint.step for checkpoint in checkpoints])
        return [checkpoint.step == best for checkpoint in checkpoints]


class Checkpoints:
    """The checkpoints of one workdir: the newest two, the best, and, if wanted, every N-th, are kept.

    Saving runs in the background, and a checkpoint appears under its name when it is whole. A context manager:
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
          report: called with a line for each checkpoint that cannot be read.

        Raises:
          UserError: if the folder can't be made.
        """
        self._path = (workdir if is_remote(workdir) else workdir.absolute()) / "checkpoints"
        self._read_only, self._report = read_only, report
        self._record = _Record(self._path / "losses.json")
        kept: list[preservation_policy.PreservationPolicy] = [
            preservation_policy.LatestN(2),
            self._record,
        ]
        if keep_every:
            kept.append(preservation_policy.EveryNSteps(keep_every))
        options = ocp.CheckpointManagerOptions(
            # When to save is the training loop's business; every save it asks for is made.
            save_decision_policy=save_decision_policy.FixedIntervalPolicy(1),
            preservation_policy=preservation_policy.AnyPreservationPolicy(kept),
            create=False,
            read_only=read_only,
            # Threads that wait for a folder that can't be made would keep the process for five minutes.
            async_options=ocp.AsyncOptions(
                post_finalization_callback=self._seal, create_directories_asynchronously=False
            ),
        )
        self._saving: tuple[int, list[Any]] = (0, [])
        decided_by_first(self._open)
        with together():
            try:
                self._manager = ocp.CheckpointManager(self._path, options=options)
            except OSError as error:
                raise UserError(f"{self._path}: {error.strerror or error}") from error

    def _open(self) -> None:
        try:
            if not self._read_only:
                self._path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self._path}: {error.strerror or error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            # The first error is the one to report.
            with contextlib.suppress(Exception):
                self._manager.close()
            return
        self.wait()
        self._manager.close()

    def latest(self) -> int | None:
        """Return the step of the newest checkpoint; None if there is none."""
        step: int | None = self._manager.latest_step()
        return step

    def best(self) -> int | None:
        """Return the step of the best checkpoint that is kept; None if there is none of which a loss is known."""
        return self._record.best(self._manager.all_steps())

    def losses(self, step: int) -> list[float]:
        """Return the validation losses of a checkpoint, one a round; none where they are not known."""
        return self._record.losses(step)

    def kept(self) -> str:
        """Return a line about the checkpoint that a run resumes from."""
        step = self.latest()
        return "there is no checkpoint" if step is None else f"the checkpoint of step {step} is kept"

    def save(self, step: int, tree: Any, losses: float | Sequence[float]) -> None:
        """Save a pytree of arrays as the checkpoint of `step`; does nothing if that step is saved already.

        Args:
          step: of training.
          tree: arrays.
          losses: on validation examples, one a round; by the least mean the best is kept.

        Raises:
          UserError: if it, or the one before it, can't be written.
        """
        if self._manager.latest_step() == step:
            return
        with self._writing():
            self._record.add(step, losses)
            # The one before it is sealed by then.
            self._manager.wait_until_finished()
            self._saving = step, checksums.arrays_of(tree)
            self._manager.save(step, args=ocp.args.StandardSave(tree))

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
            whole = self._whole()
            good = f"the checkpoint of step {whole[-1]} is whole" if whole else "there is none yet"
            raise UserError(f"{self._path}: a checkpoint can't be written: {_reason(error)}; {good}") from error

    def _whole(self) -> list[int]:
        """Return steps whose checkpoints are whole, as far as the checksums show."""
        with contextlib.suppress(Exception):
            folders = [folder for folder in self._path.iterdir() if folder.name.isdigit()]
            # In a bucket nothing is renamed: there a file says when all is written.
            if is_remote(self._path):
                folders = [folder for folder in folders if (folder / "commit_success.txt").exists()]
            return sorted(int(folder.name) for folder in folders)
        return []

    def _seal(self) -> None:
        """Write the checksums of what has been saved, before it gets its name; in the background."""
        step, arrays = self._saving
        if jax.process_index() == 0:
            names = (str(step), f"{step}.orbax")
            folder = next(f for f in self._path.iterdir() if f.name == names[0] or f.name.startswith(names[1]))
            checksums.write(folder, arrays)

    def restore(self, like: Any, which: Which = "newest") -> Any:
        """Restore a checkpoint, with the structure, shapes, dtypes and places of `like`.

        Files that can't be read are tried again; only missing and corrupt files are damage.

        Args:
          like: arrays, or their shapes, dtypes and places.
          which: the newest that is whole: those newer than it are set aside, as STEP.damaged, unless all is read only;
            that with the least loss on validation examples; or that of a step.

        Raises:
          UserError: if there is none, or none that is whole, or it can't be read.
        """
        arrays = checksums.arrays_of(like)
        step: int = decided_by_first(lambda: self._choose(which, arrays))
        if not self._read_only:
            self._manager.reload()
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        with together():
            tree = self._patiently(step, lambda: self._manager.restore(step, args=ocp.args.StandardRestore(abstract)))
        return tree

    def _choose(self, which: Which, arrays: list[Any]) -> int:
        """Return the step of the checkpoint that is meant, which is whole."""
        steps: list[int] = sorted(self._manager.all_steps(), reverse=True)
        if not steps:
            raise UserError(f"{self._path}: no checkpoint here; train first")
        if which != "newest":
            wanted = self._record.best(steps) if which == "best" else which
            if wanted is None:
                raise UserError(f"{self._path}: it is not known which is the best; there are {sorted(steps)}")
            if wanted not in steps:
                raise UserError(f"{self._path}: no checkpoint of step {wanted}; there are {sorted(steps)}")
            steps = [wanted]
        damaged: dict[int, str] = {}
        for step in steps:
            where = self._path / str(step)
            if reason := self._patiently(step, partial(checksums.damage, where, arrays)):
                damaged[step] = f"{where}: damaged: {reason}"
                continue
            for number, reason in damaged.items():
                self._report(f"{reason}; the checkpoint of step {step} is used in its place")
                if not self._read_only:
                    self._set_aside(number)
            return step
        raise UserError(damaged[steps[0]])

    def _patiently(self, step: int, read: Callable[[], T], waits: Sequence[float] = _WAITS) -> T:
        """Read, and try again after transient errors; refuse with the reason after the last attempt."""
        try:
            return read()
        except UserError:
            raise
        # Memory, permissions, a network: whatever the layer that met it raises.
        except Exception as error:
            if not waits:
                raise UserError(
                    f"{self._path / str(step)}: cannot be read: {_reason(error)}; it is left as it is: try again, or "
                    "move it away to use the one before it"
                ) from error
        sleep(waits[0])
        return self._patiently(step, read, waits[1:])

    def _set_aside(self, step: int) -> None:
        try:
            aside = self._path / f"{step}.damaged"
            if aside.exists():
                epath.Path(aside).rmtree()
            (self._path / str(step)).rename(aside)
        except OSError as error:
            raise UserError(f"{self._path / str(step)}: can't be set aside: {error.strerror or error}") from error


def _reason(error: Exception) -> str:
    """Return the first line of an exception that is not empty."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return first[:200]

"""Checkpoints. Every call to Orbax is in this file."""

from __future__ import annotations

import contextlib
import io
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint.checkpoint_managers import preservation_policy, save_decision_policy

from dpm_jax.errors import UserError

__all__ = ["Checkpoints"]

# Orbax and its helpers tell of every save and restore; what goes wrong comes as an exception.
logging.set_verbosity(logging.ERROR)


class Checkpoints:
    """The checkpoints of one workdir, newest `keep` kept; saving goes on in the background.

    A context manager: on leaving it, what is being saved is finished.
    """

    def __init__(self, workdir: Path, *, keep: int = 2, read_only: bool = False) -> None:
        """Open `workdir`/checkpoints.

        Raises:
          UserError: if the folder can't be made.
        """
        self._path = workdir.absolute() / "checkpoints"
        options = ocp.CheckpointManagerOptions(
            # When to save is the training loop's business; every save it asks for is made.
            save_decision_policy=save_decision_policy.FixedIntervalPolicy(1),
            preservation_policy=preservation_policy.LatestN(keep),
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
        self._manager.close()

    def latest(self) -> int | None:
        """The step of the newest checkpoint; None if there is none."""
        step: int | None = self._manager.latest_step()
        return step

    def save(self, step: int, tree: Any) -> None:
        """Save a pytree of arrays as the checkpoint of `step`; does nothing if that step is saved already."""
        if self._manager.latest_step() != step:
            self._manager.save(step, args=ocp.args.StandardSave(tree))

    def restore(self, like: Any) -> Any:
        """The newest checkpoint, with the structure, shapes and dtypes of `like`.

        Raises:
          UserError: if there is none, or it is damaged or of another shape.
        """
        step = self.latest()
        if step is None:
            raise UserError(f"{self._path}: no checkpoint here; train first")
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        # Threads of a read that fails print tracebacks, some a moment later; the reason below says it all.
        with contextlib.redirect_stderr(io.StringIO()):
            try:
                return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
            # Damage shows as whatever the layer that met it raises: ValueError, OSError, KeyError, ...
            except Exception as error:
                time.sleep(0.3)
                reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
                where = self._path / str(step)
                raise UserError(f"{where}: damaged or of another model: {reason[:200]}") from error

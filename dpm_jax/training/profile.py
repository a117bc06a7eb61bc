"""A trace of some steps, that TensorBoard and Perfetto read."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax

from dpm_jax.errors import UserError
from dpm_jax.training.storage import Staged

__all__ = ["Profile", "steps"]


def steps(text: str) -> tuple[int, int]:
    """'10:20' -> (10, 20).

    Raises:
      UserError: if it is no such range.
    """
    first, _, last = text.partition(":")
    if not (first.isdigit() and last.isdigit() and int(first) < int(last)):
        raise UserError(f"--profile_steps: must be FIRST:LAST, as 10:20, got {text!r}")
    return int(first), int(last)


class Profile:
    """Traces the steps after the first of a range, to the last, into `workdir`/profile; a context manager."""

    def __init__(self, workdir: Path, steps: tuple[int, int] | None) -> None:
        """Trace nothing yet, and nothing at all if `steps` is None."""
        self._workdir, self._steps, self._tracing = workdir, steps, False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def before(self, step: int) -> None:
        """Start the trace if it begins at `step`; call this before that dispatch."""
        if self._steps is not None and self._steps[0] <= step < self._steps[1] and not self._tracing:
            self._staged = Staged(self._workdir)
            jax.profiler.start_trace(str(self._staged.folder / "profile"))
            self._tracing = True

    def after(self, step: int, results: Any) -> None:
        """Stop the trace if it ends at `step`; call this after that dispatch, with its results."""
        if self._tracing and self._steps is not None and step >= self._steps[1]:
            jax.block_until_ready(results)
            self._end()

    def _end(self) -> None:
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False
            self._staged.__exit__(None, None, None)

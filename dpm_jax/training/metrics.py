"""Where a run's numbers go: `metrics.jsonl` and TensorBoard."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from dpm_jax.errors import UserError
from dpm_jax.training.storage import Staged, json_text, write_text

__all__ = ["MetricsWriter", "read"]

# Between two copies into a bucket, at least.
_SECONDS = 30.0


def read(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a `metrics.jsonl`, without one cut short by a crash; null stands for what was not finite."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and "step" in line:
            lines.append(line)
    return lines


class MetricsWriter:
    """Appends to `metrics.jsonl` and to TensorBoard files in `workdir`; a context manager.

    In a bucket they lag behind by up to half a minute and a dispatch.
    """

    def __init__(self, workdir: Path, step: int) -> None:
        """Open for a run that resumes from `step`; lines that an earlier run logged after it are dropped.

        Raises:
          UserError: if the files can't be written.
        """
        from tensorboardX import SummaryWriter

        try:
            kept = [line for line in read(workdir / "metrics.jsonl") if line["step"] <= step]
            self._staged = Staged(workdir)
            path = self._staged.folder / "metrics.jsonl"
            write_text(path, "".join(json_text(line) + "\n" for line in kept))
            self._file: IO[str] = path.open("a")
            self._board = SummaryWriter(str(self._staged.folder / "tensorboard"), purge_step=step + 1)
        except OSError as error:
            raise UserError(f"{workdir}: metrics cannot be written: {error.strerror or error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._board.close()
        self._staged.__exit__(kind, error, trace)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One line, and one point a scalar."""
        self._file.write(json_text({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        # A bucket that can't be reached for a moment is no reason to stop; at the end it is.
        with contextlib.suppress(UserError):
            self._staged.push(after=_SECONDS)

    def push(self) -> None:
        """Bring what is written into the bucket now, if the workdir is in one."""
        with contextlib.suppress(UserError):
            self._staged.push()

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Return a picture, [height, width, 3 or 4] uint8."""
        self._board.add_image(name, pixels[..., :3], step, dataformats="HWC")

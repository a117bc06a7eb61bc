"""Where a run's numbers go: `metrics.jsonl` and TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np

__all__ = ["MetricsWriter", "read"]


def read(path: Path) -> list[dict[str, float]]:
    """The lines of a `metrics.jsonl`; a line cut short by a crash is left out."""
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
    """Appends to `metrics.jsonl` and to TensorBoard files in `workdir`; a context manager."""

    def __init__(self, workdir: Path, step: int) -> None:
        """Open for a run that goes on from `step`; what an earlier run logged after it is dropped."""
        from tensorboardX import SummaryWriter

        path = workdir / "metrics.jsonl"
        kept = [line for line in read(path) if line["step"] <= step]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        temporary.replace(path)
        self._file: IO[str] = path.open("a")
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._board.close()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One line, and one point a scalar."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """A picture, [height, width, 3 or 4] uint8."""
        self._board.add_image(name, pixels[..., :3], step, dataformats="HWC")

"""Progress bars, on stderr, of the first process."""

from __future__ import annotations

import sys

import jax
from tqdm import tqdm

__all__ = ["bar"]

# Seconds between the lines of a bar in a file or a pipe, where it cannot move.
_BETWEEN = 30.0


def bar(what: str, total: int, unit: str, initial: int = 0, leave: bool = False) -> tqdm:
    """Return a bar that stands at `initial` of `total`, to be updated; it disappears at its end unless `leave`.

    Where stderr is a file or a pipe, it is a line now and then.
    """
    moves = sys.stderr.isatty()
    return tqdm(
        desc=what,
        total=total,
        unit=unit,
        initial=initial,
        leave=leave,
        mininterval=0.5 if moves else _BETWEEN,
        maxinterval=10.0 if moves else _BETWEEN,
        delay=0.0 if moves or leave else 1.0,
        file=None if moves else _Lines(),
        ascii=None if moves else True,
        disable=jax.process_index() > 0,
    )


class _Lines:
    """A stream to stderr in which each state of a bar is a line, and its erasure is nothing."""

    def write(self, text: str) -> None:
        """Write the state, if there is one."""
        if line := text.strip():
            sys.stderr.write(line + "\n")

    def flush(self) -> None:
        """Flush stderr."""
        sys.stderr.flush()

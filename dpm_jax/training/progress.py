"""Progress bars, on stderr, of the first process."""

from __future__ import annotations

import jax
from tqdm import tqdm

__all__ = ["bar"]


def bar(what: str, total: int, unit: str, initial: int = 0, leave: bool = False) -> tqdm:
    """Return a bar that stands at `initial` of `total`, to be updated; it disappears at its end unless `leave`."""
    return tqdm(
        desc=what,
        total=total,
        unit=unit,
        initial=initial,
        leave=leave,
        mininterval=0.5,
        disable=jax.process_index() > 0,
    )

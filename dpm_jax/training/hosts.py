"""Several processes that run one command: what one of them decides or fails at, all know, so that none waits for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from dpm_jax.errors import UserError

__all__ = ["decided_by_first", "together", "wait_for_all"]


def wait_for_all(what: str) -> None:
    """Wait until every process is here; what one of them has done before, the others find done."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


@contextmanager
def together() -> Iterator[None]:
    """Run a block in all processes; a `UserError` in some of them is raised in every one at the end of the block.

    The block must not wait for the other processes where it may fail.
    """
    error: UserError | None = None
    try:
        yield
    except UserError as found:
        error = found
    if jax.process_count() > 1 and (said := _first_said(None if error is None else str(error))) is not None:
        raise UserError(said) from error
    if error is not None:
        raise error


def decided_by_first(decide: Callable[[], Any]) -> Any:
    """Return in every process what `decide` returns in the first, which alone calls it.

    Args:
      decide: returns plain JSON.

    Raises:
      UserError: in every process, if `decide` raises it in the first.
    """
    decision: Any = None
    with together():
        if jax.process_index() == 0:
            decision = decide()
    return decision if jax.process_count() == 1 else json.loads(_gather(json.dumps(decision))[0])


def _first_said(message: str | None) -> str | None:
    """Return the message of the first process that has one."""
    said = (json.loads(text) for text in _gather(json.dumps(message)))
    return next((text for text in said if text is not None), None)


def _gather(text: str) -> list[str]:
    """Return the texts of all processes, in their order."""
    content = np.frombuffer(text.encode(), np.uint8)
    lengths = np.asarray(multihost_utils.process_allgather(np.asarray([content.size]))).reshape(-1)
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: content.size] = content
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(lengths), -1)
    return [bytes(row[:length]).decode() for row, length in zip(rows, lengths, strict=True)]

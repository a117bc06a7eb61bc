"""Being told to stop: SIGTERM here, or a preemption notice to any process of a pod."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

import jax
from jax.experimental import multihost_utils

__all__ = ["StopSignal"]


class StopSignal:
    """Listens, within its context, for SIGTERM.

    Of several processes all stop at the same step: JAX passes the notice of one on to all.
    """

    def __init__(self) -> None:
        """Hear nothing yet."""
        self._heard, self._times_asked = False, 0
        self._before: Any = None

    def __enter__(self) -> Self:
        # Several processes: JAX's own handler listens. Signals can be handled in the main thread alone.
        self._listening = jax.process_count() == 1 and threading.current_thread() is threading.main_thread()
        if self._listening:
            self._before = signal.signal(signal.SIGTERM, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._listening:
            signal.signal(signal.SIGTERM, self._before)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._heard = True

    def asked(self) -> bool:
        """Whether to stop now; to be called by all processes after the same dispatches."""
        if jax.process_count() > 1:
            # They agree on a number that none has come to yet: it has to be met, so numbers follow one another.
            self._times_asked += 1
            return bool(multihost_utils.reached_preemption_sync_point(self._times_asked))
        return self._heard

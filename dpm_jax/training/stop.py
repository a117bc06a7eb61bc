"""Requests to stop: SIGTERM and Ctrl-C here, or a preemption notice to any process of a pod."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

import jax
from jax.experimental import multihost_utils

__all__ = ["StopSignal"]

_HEARD = "stopping: what is under way is finished and saved first"


class StopSignal:
    """Listens, within its context, for SIGTERM and for Ctrl-C; a second Ctrl-C raises KeyboardInterrupt.

    Several processes stop at the same step: JAX passes the notice of one on to all.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        """Prepare to listen; `report` is called in a separate thread as soon as a signal arrives."""
        self._heard, self._times_asked, self._report = False, 0, report

    def __enter__(self) -> Self:
        # Signals can be handled in the main thread alone.
        self._listening = threading.current_thread() is threading.main_thread()
        if self._listening:
            # Of several processes, JAX's own handler listens for SIGTERM.
            signals = [signal.SIGINT] + [signal.SIGTERM] * (jax.process_count() == 1)
            self._before: dict[signal.Signals, Any] = {s: signal.signal(s, self._hear) for s in signals}
            # Python calls a handler only between two bytecode instructions, which may be late: during one it compiles,
            # or waits for the device. The number of the signal is here at once.
            self._ours, self._pythons = socket.socketpair()
            self._pythons.setblocking(False)
            self._wakeup_before = signal.set_wakeup_fd(self._pythons.fileno(), warn_on_full_buffer=False)
            self._thread = threading.Thread(target=self._tell, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._listening:
            signal.set_wakeup_fd(self._wakeup_before)
            for number, handler in self._before.items():
                signal.signal(number, handler)
            self._pythons.close()
            self._thread.join()
            self._ours.close()

    def _tell(self) -> None:
        while byte := self._ours.recv(1):
            if byte[0] in self._before:
                again = "; Ctrl-C again leaves without that" if byte[0] == signal.SIGINT else ""
                self._report(_HEARD + again)
                return

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._heard:
            raise KeyboardInterrupt
        self._heard = True
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def asked(self) -> bool:
        """Return whether to stop now; to be called by all processes after the same dispatches."""
        if jax.process_count() > 1:
            # They agree on a number that none has come to yet: it has to be met, so numbers follow one another.
            self._times_asked += 1
            return bool(multihost_utils.reached_preemption_sync_point(self._times_asked))
        return self._heard

"""Ctrl-C and SIGTERM held back until the work in hand can be saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Stop(KeyboardInterrupt):
    """An interruption taken between two steps, where the state is whole."""


class Interrupt:
    """While entered, the first SIGINT or SIGTERM only sets `requested`; the next one interrupts at once.

    Outside the main thread, where Python takes no signals, it does nothing.

    Args:
        patient: later signals do nothing either; a launcher of several processes passes each one on a second time.
    """

    def __init__(self, patient: bool = False) -> None:
        self.requested = False
        self.patient = patient
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupt:
        """Take over the handlers."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the handlers back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def check(self) -> None:
        """Raise `Stop` where a signal has come."""
        if self.requested:
            raise Stop

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.requested and not self.patient:
            # A third signal would interrupt what this error passes through.
            for each in self._previous:
                signal.signal(each, signal.SIG_IGN)
            raise KeyboardInterrupt
        self.requested = True

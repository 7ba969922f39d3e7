"""Delays Ctrl-C and SIGTERM until the state of a run can be saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Stop(KeyboardInterrupt):
    """An interruption between two optimiser steps, where the state is consistent and can be saved."""


class Interrupt:
    """A context in which the first SIGINT or SIGTERM only sets `requested`; the second raises `KeyboardInterrupt`.

    Python delivers signals to the main thread only. In other threads this class does nothing.

    Args:
        patient: ignore later signals too. A launcher of several processes sends each signal a second time.
    """

    def __init__(self, patient: bool = False) -> None:
        self.requested = False
        self.patient = patient
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupt:
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Restore the previous handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def check(self) -> None:
        """Raise `Stop` if a signal has arrived."""
        if self.requested:
            raise Stop

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.requested and not self.patient:
            # Ignore a third signal, which would interrupt the clean-up after this error.
            for handled in self._previous:
                signal.signal(handled, signal.SIG_IGN)
            raise KeyboardInterrupt
        self.requested = True

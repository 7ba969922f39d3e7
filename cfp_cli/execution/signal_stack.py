"""The stack on which signals are handled.

OpenVINO registers one in `compile_model` (`sigaltstack`) that holds the processor's registers and hardly more. Python's
handler does not fit in the rest, so the next signal, such as Ctrl-C, ends the process with a segmentation fault and no
message.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    """`stack_t` of signal.h on Linux."""

    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def keep_signal_stack() -> Iterator[None]:
    """Restore the signal stack of this thread at the end of the context. Does nothing on other systems than Linux."""
    if sys.platform != "linux":
        yield
        return
    library, before = ctypes.CDLL(None), _Stack()
    library.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        library.sigaltstack(ctypes.byref(before), None)

"""Returns freed memory to the system."""

from __future__ import annotations

import ctypes
from collections.abc import Callable


def _malloc_trim() -> Callable[[int], int] | None:
    """`malloc_trim` of glibc. Other C libraries do not have it."""
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    return trim


_TRIM = _malloc_trim()


def trim_heap() -> None:
    """Return freed heap memory to the system.

    Feature maps up to 32 MB are on the heap. The few kilobytes of scores that remain of a batch are above them and keep
    glibc from returning them, so that the larger maps of the next batch would need new memory.
    """
    if _TRIM is not None:
        _TRIM(0)

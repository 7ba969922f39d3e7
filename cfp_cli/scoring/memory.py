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

    Feature maps and scores up to 32 MB are on the heap. Small blocks above freed ones keep glibc from returning them,
    so that tables of another size would need new memory. A call takes milliseconds, and the pages must be mapped again:
    call it after a stage, not after each batch.
    """
    if _TRIM is not None:
        _TRIM(0)

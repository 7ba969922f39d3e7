"""Memory that was freed and that the C library keeps."""

from __future__ import annotations

import ctypes
from collections.abc import Callable


def _find() -> Callable[[int], int] | None:
    """`malloc_trim` of glibc; other C libraries have none."""
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    return found


_TRIM = _find()


def give_back() -> None:
    """Give freed memory back to the system.

    Feature maps of up to 32 MB come from the heap. What a batch leaves behind, a few kilobytes of scores, lies above
    them and keeps glibc from giving them back, so that the next batch's larger maps come on top.
    """
    if _TRIM is not None:
        _TRIM(0)

"""Returns freed memory to the system."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass


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


# Freed bytes after which a trim is worth its milliseconds.
_WORTH_TRIMMING = 1 << 25


@dataclass
class FreedMemory:
    """Counts freed memory, and returns it to the system when there is enough of it.

    Attributes:
        size: bytes that were freed since the heap was last trimmed.
    """

    size: int = 0

    def add(self, size: int) -> None:
        """Count freed bytes."""
        self.size += size
        if self.size >= _WORTH_TRIMMING:
            trim_heap()
            self.size = 0

"""Freed memory returns to the system where the C library would keep it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cfp_cli.scoring import memory

# Blocks on the heap, each with a small block above it that is not freed: like maps and their scores.
PROGRAM = """
import gc
import numpy as np
from cfp_cli.scoring.memory import trim_heap

def resident():
    for line in open("/proc/self/status"):
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024

np.ones(30 << 20, np.uint8)  # once freed, blocks of up to its size come from the heap
blocks = [(np.ones(4 << 20, np.uint8), np.ones(50_000, np.uint8)) for _ in range(40)]
kept = [small for _, small in blocks]
del blocks
gc.collect()
before = resident()
trim_heap()
print(before - resident())
"""


@pytest.mark.skipif(memory._TRIM is None or not Path("/proc/self/status").exists(), reason="no glibc")
def test_freed_blocks_below_kept_ones_are_returned() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True)
    assert float(ran.stdout) > 120


def test_other_libraries_are_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    class Without:
        def __init__(self, name: None) -> None:
            assert name is None

    monkeypatch.setattr(memory.ctypes, "CDLL", Without)
    assert memory._malloc_trim() is None
    monkeypatch.setattr(memory, "_TRIM", None)
    memory.trim_heap()


def test_the_heap_is_trimmed_when_enough_was_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(memory, "trim_heap", lambda: calls.append(1))
    freed = memory.FreedMemory()
    for size, trims in ((1 << 24, 0), (1 << 24, 1), (1 << 24, 1), (1 << 26, 2), (1 << 24, 2)):
        freed.add(size)
        assert len(calls) == trims

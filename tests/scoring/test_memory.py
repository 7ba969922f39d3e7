"""Freed memory goes back to the system where the C library would keep it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cfp_cli.scoring import memory

# Blocks that the heap serves, each with something small above it that stays: as maps and what is kept of them.
PROGRAM = """
import gc
import numpy as np
from cfp_cli.scoring.memory import give_back

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
give_back()
print(before - resident())
"""


@pytest.mark.skipif(memory._TRIM is None or not Path("/proc/self/status").exists(), reason="no glibc")
def test_freed_blocks_below_kept_ones_go_back() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True)
    assert float(ran.stdout) > 120


def test_other_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Without:
        def __init__(self, name: None) -> None:
            assert name is None

    monkeypatch.setattr(memory.ctypes, "CDLL", Without)
    assert memory._find() is None
    monkeypatch.setattr(memory, "_TRIM", None)
    memory.give_back()

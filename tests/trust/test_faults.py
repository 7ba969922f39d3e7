from __future__ import annotations

import sys
from pathlib import Path

import pytest
from programs import run_program


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the harness forks")
def test_kills_full_disks_and_races_lose_nothing(tmp_path: Path) -> None:
    """The fast part of `make fuzz`: two commands at every second of their writes, and two races."""
    line = ["--commands", "bench", "fuse", "--every", "2", "--races", "2", "--interrupts", "1"]
    report = run_program("faults.py", tmp_path / "faults", *line)
    assert report["broken"] == 0
    assert report["kills"] >= 7
    assert report["full disks"] == report["kills"]
    assert report["size limits"] == 6
    assert report["races"] == 2

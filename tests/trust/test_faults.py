from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the harness forks")
def test_kills_full_disks_and_races_lose_nothing(tmp_path: Path) -> None:
    """The fast part of `make fuzz`: one command at each of its writes, and two races."""
    script = Path(__file__).with_name("faults.py")
    done = subprocess.run(
        [
            sys.executable,
            str(script),
            str(tmp_path / "faults"),
            "--commands",
            "bench",
            "--races",
            "2",
            "--interrupts",
            "1",
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parents[2])},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["broken"] == 0
    assert report["kills"] >= 5
    assert report["full disks"] == report["kills"]
    assert report["races"] == 2

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the harness forks")
def test_a_hostile_environment_gives_one_line(tmp_path: Path) -> None:
    """The fast part of `make fuzz`: some commands in some environments of each kind that needs no new Python."""
    script = Path(__file__).with_name("environments.py")
    kinds = ["streams", "terminals", "folders", "disks", "memory", "handles", "launchers"]
    names = ["inspect", "predict"]
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "work"), "--limit", "2", "--kinds", *kinds, "--commands", *names],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parents[2])},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["broken"] == 0
    assert report["commands"] + report.get("environments that need mount", 0) == 2 * len(kinds)
    assert report["worked"] >= 5
    assert report["refused"] >= 1

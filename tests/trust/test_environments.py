from __future__ import annotations

import sys
from pathlib import Path

import pytest
from programs import run_program


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the harness forks")
def test_a_hostile_environment_gives_one_line(tmp_path: Path) -> None:
    """The fast part of `make fuzz`: some commands in some environments of each kind that needs no new Python."""
    kinds = ["streams", "terminals", "folders", "disks", "memory", "handles", "launchers"]
    names = ["inspect", "predict"]
    line = ["--limit", "2", "--kinds", *kinds, "--commands", *names]
    report = run_program("environments.py", tmp_path / "work", *line)
    assert report["broken"] == 0
    assert report["commands"] + report.get("environments that need mount", 0) == 2 * len(kinds)
    assert report["worked"] >= 5
    assert report["refused"] >= 1

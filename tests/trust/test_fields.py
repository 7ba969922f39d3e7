from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_replaced_field_gives_one_line(tmp_path: Path) -> None:
    """The fast part of `make fuzz`: a few fields of each kind of file."""
    script = Path(__file__).with_name("fields.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "fields"), "--limit", "7", "--seconds", "60"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parents[2])},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["broken"] == 0
    assert report["mutations"] >= 10
    assert report["refused"] >= 5

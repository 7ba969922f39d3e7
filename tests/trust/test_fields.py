from __future__ import annotations

from pathlib import Path

import pytest
from programs import run_program


@pytest.mark.slow
def test_a_replaced_field_gives_one_line(tmp_path: Path) -> None:
    """The fast part of `make fuzz`: a few fields of each kind of file."""
    report = run_program("fields.py", tmp_path / "fields", "--limit", "7")
    assert report["broken"] == 0
    assert report["unnamed"] == 0
    assert report["mutations"] >= 50
    assert report["refused"] >= 20

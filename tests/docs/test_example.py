"""The example script runs the whole pipeline on tiny images."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import onnxruntime
import pytest

import cfp_cli as cfp

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "shrink.py"


def test_from_images_to_an_exported_network(stock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "small"
    options = ["--arch", f"{stock / 'net.py'}:factory", "--input-size", "32", "--ratio", "0.7"]
    epochs = ["--teacher-epochs", "1", "--student-epochs", "1"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(stock / "data"), str(out), *options, *epochs])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    whole, small = (
        sum(p.numel() for p in cfp.load(out / name, options[1]).parameters()) for name in ("rl.pt", "small.pt")
    )
    assert small / whole == pytest.approx(0.3, abs=0.005)
    session = onnxruntime.InferenceSession(str(out / "small.onnx"), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape[1:] == [3, 32, 32]

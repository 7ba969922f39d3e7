"""The example scripts run the whole pipeline on tiny images."""

from __future__ import annotations

import importlib.util
import runpy
import subprocess
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


def test_a_segmentation_network_from_masks_to_an_exported_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = SCRIPT.with_name("segmentation.py")
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path), "--images", "18", "--epochs", "1"])
    runpy.run_path(str(script), run_name="__main__")
    shown = capsys.readouterr().out
    assert [line.split(":")[0] for line in shown.splitlines()[1:4]] == ["teacher", "pruned and refitted", "distilled"]
    outputs = onnxruntime.InferenceSession(
        str(tmp_path / "small.onnx"), providers=["CPUExecutionProvider"]
    ).get_outputs()
    assert [each.shape[1:] for each in outputs] == [[7, 64, 64]]
    assert sum(p.numel() for p in cfp.load(tmp_path / "small.pt", f"{script}:unet").parameters()) < 80_000


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ultralytics") is None, reason="ultralytics is not installed")
def test_a_detector_of_ultralytics_trains_on_in_its_own_trainer(tmp_path: Path) -> None:
    options = ["--images", "30", "--epochs", "1", "--epochs-on", "1", "--ratio", "0.5"]
    # A process of its own: Ultralytics changes settings of torch and of the environment.
    command = [sys.executable, str(SCRIPT.with_name("detection.py")), str(tmp_path), *options]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    removed, *stages = shown.splitlines()[-6:]
    assert float(removed.split()[1].rstrip("%")) == pytest.approx(50, abs=0.5)
    names = ["original", "pruned and refitted", "trained on", "exported by Ultralytics", "exported by cfp"]
    assert [line.split(":")[0] for line in stages] == names
    counts = [int(line.split(" parameters")[0].split()[-1].replace(",", "")) for line in stages[:3]]
    assert counts[1] == counts[2] == pytest.approx(counts[0] / 2, rel=0.01)
    outputs = onnxruntime.InferenceSession(
        str(tmp_path / "small.onnx"), providers=["CPUExecutionProvider"]
    ).get_outputs()
    assert outputs[0].shape[1:] == [10, 336]

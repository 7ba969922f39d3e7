from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cfp_cli.checkpoints.spec import ModelSpec, describe
from cfp_cli.exporting import onnx_file, openvino_file
from cfp_cli.exporting.export import export
from cfp_cli.foundation.errors import CfpError, MissingExtraError

for package in openvino_file.NEEDS:
    pytest.importorskip(package)

SPEC = ModelSpec("net", ("a", 'b "<&>', "größe"), input_size=(16, 16))


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return describe(nn.Sequential(*layers, nn.Linear(8, 3)), SPEC).eval()


IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_weights_are_float32_and_results_of_earlier_calls_stay(tmp_path: Path) -> None:
    model, path = network(0), tmp_path / "net.xml"
    export(model, path, "openvino")
    run = openvino_file.runner(path)
    first = run(IMAGES)
    copy = first.clone()
    run(IMAGES + 1)
    assert torch.equal(first, copy)
    with torch.no_grad():
        torch.testing.assert_close(first, model(IMAGES), rtol=1e-5, atol=1e-6)
    # OpenVINO writes float16 weights by default.
    assert (tmp_path / "net.bin").stat().st_size >= 4 * (8 * 27 + 8 + 8 * 3 + 3)


def candidate(folder: Path, seed: int) -> Path:
    folder.mkdir()
    path = folder / "net.xml"
    openvino_file.convert(onnx_file.to_bytes(network(seed), torch.rand(2, 3, 16, 16), {}), path, {})
    return path


def pair(path: Path) -> tuple[bytes, bytes]:
    return path.read_bytes(), path.with_suffix(".bin").read_bytes()


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """An export of another network."""
    path = tmp_path / "out" / "net.xml"
    openvino_file.write(candidate(tmp_path / "earlier", 0), path)
    return path


@pytest.mark.parametrize("failing", [1, 2])
def test_a_full_disk_leaves_the_earlier_pair(
    earlier: Path, tmp_path: Path, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, source = pair(earlier), candidate(tmp_path / "new", 1)
    real, calls = os.write, iter(range(1, 100))

    def write(descriptor: int, content: bytes) -> int:
        if next(calls) == failing:
            raise OSError(28, "no space left on device")
        return real(descriptor, content)

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", write)
        with pytest.raises(CfpError):
            openvino_file.write(source, earlier)
    assert pair(earlier) == before
    assert {file.name for file in earlier.parent.iterdir()} == {"net.xml", "net.bin"}


def test_no_moment_has_the_graph_of_one_export_and_the_weights_of_another(
    earlier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = candidate(tmp_path / "new", 1)
    old, new = pair(earlier), pair(source)
    assert old[1] != new[1]
    moments = []

    def record() -> None:
        if earlier.exists():
            moments.append(pair(earlier))

    for name in ("replace", "unlink"):
        real = getattr(os, name)

        def patched(*arguments: Any, real: Any = real, **options: Any) -> None:
            record()
            real(*arguments, **options)
            record()

        monkeypatch.setattr(os, name, patched)
    openvino_file.write(source, earlier)
    assert set(moments) == {old, new}
    assert pair(earlier) == new


def test_what_openvino_cannot_read_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "net.xml"
    path.write_text("<net")
    with pytest.raises(CfpError, match="OpenVINO cannot run the network") as caught:
        openvino_file.runner(path)
    assert "\n" not in str(caught.value)


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None if name == "openvino" else object())
    with pytest.raises(MissingExtraError, match=r"OpenVINO needs openvino; run pip install openvino$"):
        export(network(0), tmp_path / "net.xml", "openvino")


@pytest.mark.slow
@pytest.mark.parametrize("nncf", [True, False])
def test_int8(tmp_path: Path, nncf: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    if nncf:
        pytest.importorskip("nncf")
    else:
        import importlib.util

        find = importlib.util.find_spec
        monkeypatch.setattr(
            "importlib.util.find_spec", lambda name, *rest: None if name == "nncf" else find(name, *rest)
        )
    model = network(0)
    images = torch.rand(32, 3, 16, 16)
    with torch.no_grad():
        labels = model(images).argmax(1)
    path, lines = tmp_path / "net.xml", []

    class Lines:
        def say(self, message: str) -> None:
            lines.append(message)

        def track(self, items, *_, **__):
            yield from items

    report = export(
        model,
        path,
        "openvino",
        samples=images,
        int8=True,
        calibration=images,
        evaluation=[(images, labels)],
        progress=Lines(),
    )
    assert report.precision == openvino_file.read_metadata(path)["precision"] == "int8"
    assert report.accuracy_before == 1
    assert report.accuracy_after is not None
    # The way with the smallest error on the calibration images is used.
    matches = [re.fullmatch(r"int8 by (.*): logits differ by (\S+) \(root mean square\)", line) for line in lines]
    errors = {match[1]: float(match[2]) for match in matches if match}
    assert len(errors) == 4 + nncf
    assert ("nncf" in errors) == nncf
    assert report.quantiser is not None
    assert errors[report.quantiser] == min(errors.values())


@pytest.mark.skipif(sys.platform != "linux", reason="signal stacks are restored on Linux")
def test_a_signal_after_a_conversion_reaches_python(tmp_path: Path) -> None:
    onnx_path = tmp_path / "net.onnx"
    onnx_path.write_bytes(onnx_file.to_bytes(network(0), torch.rand(2, 3, 16, 16), {}))
    source = f"""
import ctypes, faulthandler, os, signal
from pathlib import Path
import torch
from cfp_cli.execution.signal_stack import _Stack
from cfp_cli.exporting import openvino_file
faulthandler.enable()
received, library = [], ctypes.CDLL(None)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: received.append(number))
before, after = _Stack(), _Stack()
library.sigaltstack(None, ctypes.byref(before))
folder = Path({str(tmp_path)!r})
openvino_file.convert((folder / "net.onnx").read_bytes(), folder / "net.xml", {{}})
openvino_file.runner(folder / "net.xml")(torch.rand(2, 3, 16, 16))
library.sigaltstack(None, ctypes.byref(after))
assert (before.sp, before.size) == (after.sp, after.size)
os.kill(os.getpid(), signal.SIGINT)
os.kill(os.getpid(), signal.SIGTERM)
assert received == [signal.SIGINT, signal.SIGTERM]
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

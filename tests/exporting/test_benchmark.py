from __future__ import annotations

import sys

import pytest
from torch import nn

from cfp_cli.checkpoints.spec import ModelSpec, describe
from cfp_cli.exporting.benchmark import Benchmark, benchmark, count_macs
from cfp_cli.foundation.errors import CheckpointError
from cfp_cli.foundation.progress import Silent


def small(classes: int = 4) -> nn.Module:
    layers = [
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, 2, 1, groups=4),
    ]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))
    return describe(model, ModelSpec("small", tuple("abcd"[:classes]), input_size=(12, 16)))


def test_macs_in_closed_form() -> None:
    # Full convolution at 12 x 16, grouped one at 6 x 8, linear layer.
    assert count_macs(small(), (3, 12, 16)) == 12 * 16 * 8 * 3 * 9 + 6 * 8 * 8 * 2 * 9 + 8 * 4


def test_macs_of_a_published_network() -> None:
    from torchvision import models

    # 1.81 G multiply-adds, as torchvision publishes for resnet18.
    assert count_macs(models.resnet18(), (3, 224, 224)) == pytest.approx(1.81e9, rel=0.01)


def test_benchmark_holds_the_promised_keys(tmp_path) -> None:
    (tmp_path / "a.pt").write_bytes(bytes(123))
    first, second = benchmark(
        {"a": small(), "b": small(2)},
        {"a": tmp_path / "a.pt"},
        batches=(1, 2),
        seconds=0.01,
        onnx=False,
        openvino=False,
    )
    assert isinstance(first, Benchmark)
    assert (first.model, first.bytes, first.params) == ("a", 123, 8 * 27 + 16 + 8 * 18 + 8 + 8 * 4 + 4)
    assert second.bytes == 4 * (second.params + 16) + 8  # running statistics and a 64-bit counter
    plain = first.to_json()
    assert set(plain) >= {"model", "params", "macs", "bytes", "latency_ms"}
    assert [each["batch"] for each in plain["latency_ms"]] == [1, 2]
    assert set(plain["latency_ms"][0]) >= {"batch", "threads", "median", "p25", "p75"}


def test_benchmark_by_onnxruntime() -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    (found,) = benchmark({"a": small()}, batches=(1, 3), threads=1, seconds=0.01, openvino=False)
    assert [(each.runtime, each.batch, each.threads) for each in found.latency_ms] == [
        ("torch", 1, 1),
        ("torch", 3, 1),
        ("onnxruntime", 1, 1),
        ("onnxruntime", 3, 1),
    ]


def test_benchmark_by_openvino() -> None:
    for name in ("openvino", "onnx", "onnxscript"):
        pytest.importorskip(name)
    (found,) = benchmark({"a": small()}, batches=(1, 3), threads=1, seconds=0.01, onnx=False)
    assert [(each.runtime, each.batch, each.threads) for each in found.latency_ms] == [
        ("torch", 1, 1),
        ("torch", 3, 1),
        ("openvino", 1, 1),
        ("openvino", 3, 1),
    ]


def test_a_network_without_spec_is_refused() -> None:
    with pytest.raises(CheckpointError, match="carries no spec"):
        benchmark({"a": nn.Linear(3, 2)})


def test_a_broken_runtime_is_reported_and_left_out(tmp_path, monkeypatch) -> None:
    pytest.importorskip("onnxscript")
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "__init__.py").write_text("raise RuntimeError('built for another system')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "openvino"]:
        monkeypatch.delitem(sys.modules, name)
    said: list[str] = []

    class Listener(Silent):
        def say(self, message: str) -> None:
            said.append(message)

    (result,) = benchmark({"small": small()}, batches=(1,), threads=1, seconds=0.01, onnx=False, progress=Listener())
    assert {each.runtime for each in result.latency_ms} == {"torch"}
    line = next(line for line in said if "not timed in openvino" in line)
    assert "openvino, which cannot be imported (RuntimeError: built for another system)" in line

"""Networks that return other tensors than logits are exported, and every output is compared."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cfp_cli.checkpoints.spec import ModelSpec, describe
from cfp_cli.execution.outputs import all_tensors_of, output_names
from cfp_cli.exporting import onnx_file, openvino_file
from cfp_cli.exporting.agreement import check
from cfp_cli.exporting.benchmark import benchmark
from cfp_cli.exporting.export import export
from cfp_cli.exporting.writers import WRITERS
from cfp_cli.foundation.errors import CfpError, TrainingError


def needs(*packages: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in packages), reason="an extra is not installed"
    )


FORMATS = [
    pytest.param("onnx", marks=needs(*onnx_file.NEEDS)),
    "pt2",
    pytest.param("openvino", marks=needs(*openvino_file.NEEDS)),
]
ENDINGS = {"onnx": "onnx", "pt2": "pt2", "openvino": "xml"}

PACKED: dict[str, tuple[Callable[[Tensor, Tensor], Any], list[str]]] = {
    "dict": (lambda maps, logits: {"out": maps, "aux": logits}, ["out", "aux"]),
    "nested": (lambda maps, logits: ([maps, {"a": logits}], maps.argmax(1)), ["output_0", "output_1", "output_2"]),
    "maps": (lambda maps, _: maps, ["output"]),
    "logits in a dict": (lambda _, logits: {"logits": logits}, ["logits"]),
}


class Dense(nn.Module):
    """A network with a map of class scores and logits."""

    def __init__(self, pack: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.maps, self.head, self.pack = nn.Conv2d(8, 5, 1), nn.Linear(8, 4), pack

    def forward(self, x: Tensor) -> Any:
        y = self.norm(self.a(x)).relu()
        return self.pack(self.maps(y), self.head(y.mean((2, 3))))


def dense(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return describe(Dense(PACKED[kind][0]).eval(), ModelSpec("net.py:dense", ("a", "b"), input_size=(16, 16)))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", PACKED)
def test_the_file_returns_every_output(kind: str, format: Any, tmp_path: Path) -> None:
    if format == "openvino" and kind != "nested":
        pytest.skip("one structure is enough for the conversion of an ONNX file")
    model, path = dense(kind), tmp_path / f"net.{ENDINGS[format]}"
    report = export(model, path, format)
    assert report.max_relative_error <= 1e-4
    for count in (1, 5):
        images = torch.rand(count, 3, 16, 16)
        given, expected = all_tensors_of(WRITERS[format].runner(path)(images)), all_tensors_of(model(images))
        for value, other in zip(given, expected, strict=True):
            torch.testing.assert_close(value.to(other.dtype), other, rtol=1e-4, atol=1e-5)
    if format == "onnx":
        outputs = onnx_file.session(path).get_outputs()
        assert [each.name for each in outputs] == PACKED[kind][1]
        assert {each.shape[0] for each in outputs} == {"batch"}


class Remembering(nn.Module):
    """Computes the positions of its maps anew only for a batch of another shape, as the heads of Ultralytics do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.shape, self.positions = nn.Conv2d(3, 8, 3, padding=1), None, torch.empty(0)

    def forward(self, x: Tensor) -> Any:
        y = self.a(x).relu()
        if self.shape != y.shape:
            self.shape, self.positions = y.shape, torch.arange(y.shape[-1], dtype=torch.float32)
        return y + self.positions, y


@pytest.mark.parametrize("format", FORMATS[:2])
@pytest.mark.parametrize("last", [0, 1, 2, 3])
def test_a_network_that_keeps_the_shape_of_its_last_batch(last: int, format: Any, tmp_path: Path) -> None:
    model, path = Remembering().eval(), tmp_path / f"net.{ENDINGS[format]}"
    describe(model, ModelSpec("net.py:remembering", ("a", "b"), input_size=(16, 16)))
    if last:
        model(torch.rand(last, 3, 16, 16))
    export(model, path, format)
    for count in (1, 2, 5):
        images = torch.rand(count, 3, 16, 16)
        for value, other in zip(WRITERS[format].runner(path)(images), model(images), strict=True):
            torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("output", [0, 1])
def test_an_error_in_any_output_is_found(output: int) -> None:
    model, images = dense("dict"), torch.rand(9, 3, 16, 16)

    def wrong(part: Tensor) -> list[Tensor]:
        values = all_tensors_of(model(part))
        values[output] = values[output] * 1.01
        return values

    with pytest.raises(CfpError, match=r"\(outputs off by 1\.0e-02 of the largest"):
        check(model, wrong, images)
    with pytest.raises(CfpError, match="differs from the checkpoint"):
        check(model, lambda part: all_tensors_of(model(part))[: output + 1][-1:], images)


def test_an_output_without_images_is_compared_once() -> None:
    class Anchored(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return x.mean((2, 3)), torch.arange(6.0).view(2, 3), torch.tensor(3.0)

    agreement = check(Anchored(), Anchored(), torch.rand(40, 3, 4, 4))
    assert (agreement.error, agreement.top1) == (0.0, None)


def test_int8_needs_logits(tmp_path: Path) -> None:
    images = torch.rand(4, 3, 16, 16)
    with pytest.raises(TrainingError, match="a dict of 2 tensors, not one tensor of logits"):
        export(dense("dict"), tmp_path / "net.onnx", int8=True, calibration=images, evaluation=[(images, images)])


def test_names_of_outputs() -> None:
    maps, logits = torch.zeros(1, 2, 3, 3), torch.zeros(1, 2)
    for pack, names in PACKED.values():
        assert output_names(pack(maps, logits)) == names


def test_dense_networks_are_timed_in_every_runtime() -> None:
    (row,) = benchmark({"net": dense("dict")}, batches=(1,), seconds=0.01)
    assert {each.runtime for each in row.latency_ms} >= {"torch"}
    assert row.macs > 0

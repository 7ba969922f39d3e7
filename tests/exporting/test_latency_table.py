"""The estimate of latency and file size: interpolation in a table, and the line through measured networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cfp_cli.checkpoints.spec import ModelSpec, describe
from cfp_cli.exporting.file_size import FileSize
from cfp_cli.exporting.latency_estimate import Line
from cfp_cli.exporting.layer_table import LayerTable, bracket
from cfp_cli.exporting.layer_times import Setting, onnx_layer, time_layer
from cfp_cli.exporting.network_times import onnx_content, time_files, time_modules
from cfp_cli.graph import Selection, channel_sets
from cfp_cli.graph.layer_shapes import LayerShape
from cfp_cli.pruning.rebuild import rebuild

SHAPES = (
    LayerShape("conv2d", 6, 8, 2, (9, 7), (3, 1), (2, 1), (1, 0), (1, 1)),
    LayerShape("conv2d", 5, 4, 1, (8, 8), (3, 3), (1, 1), (2, 2), (2, 2)),
    LayerShape("linear", 12, 5, 1, (3, 1)),
)


@given(count=st.integers(1, 4096))
def test_a_count_is_interpolated_between_counts_of_its_kind(count: int) -> None:
    found = bracket(count)
    assert sum(weight for _, weight in found) == pytest.approx(1)
    assert all(0 < weight <= 1 for _, weight in found)
    if count >= 16:
        assert sum(each * weight for each, weight in found) == pytest.approx(count)
        kinds = {each % 8 == 0 for each, _ in found}, {each % 4 == 0 for each, _ in found}
        assert kinds == ({count % 8 == 0}, {count % 4 == 0})
    assert all(abs(each - count) <= max(8, count / 4) for each, _ in found)


def test_the_table_measures_few_shapes_and_none_twice() -> None:
    measured: list[LayerShape] = []

    def measure(shape: LayerShape) -> float:
        assert shape not in measured
        measured.append(shape)
        return shape.inputs * shape.outputs / shape.groups

    known: dict[str, float] = {}
    table = LayerTable(measure, known)
    pairs = [(inputs, outputs) for inputs in range(64, 513, 3) for outputs in (64, 100, 333)]
    for inputs, outputs in pairs:
        layer = LayerShape("conv2d", inputs, outputs, 1, (8, 8), (3, 3))
        assert table.milliseconds([layer, layer]) == pytest.approx(2 * inputs * outputs)
    assert len(measured) == len(known) < 200 < len(pairs)
    assert LayerTable(measure, known).milliseconds([layer]) == pytest.approx(512 * 333, rel=0.01)


def test_a_depthwise_layer_has_one_count() -> None:
    measured: list[LayerShape] = []
    table = LayerTable(lambda shape: measured.append(shape) or float(shape.outputs), {})
    assert table.milliseconds([LayerShape("conv2d", 44, 44, 44, (8, 8), (3, 3))]) == pytest.approx(44)
    assert all(each.inputs == each.outputs == each.groups for each in measured)
    exact = LayerShape("conv2d", 44, 88, 4, (8, 8), (3, 3))
    table.milliseconds([exact])
    assert measured[-1] == exact


def test_the_line_meets_the_measured_networks_and_never_falls() -> None:
    line = Line.through([(20.0, 24.0), (1.0, 1.3)])
    assert (line.at(20.0), line.at(1.0)) == (pytest.approx(24.0), pytest.approx(1.3))
    for points in ([(20.0, 24.0), (5.0, 30.0)], [(20.0, 24.0), (5.0, 1.0)], [(20.0, 24.0)], [(0.0, 3.0)]):
        line = Line.through(points)
        assert line.fixed >= 0
        assert line.slope > 0
        if points[-1][0]:
            assert line.at(points[-1][0]) == pytest.approx(points[-1][1])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_layer_alone_has_the_shape_of_the_layer(shape: LayerShape) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(onnx_layer(shape, 2), providers=["CPUExecutionProvider"])
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    if shape.operator == "linear":
        assert (given.shape, made.shape) == ([6, 12], [6, 5])
    else:
        images = torch.rand(2, shape.inputs, *shape.size)
        weight = torch.rand(shape.outputs, shape.inputs // shape.groups, *shape.kernel)
        result = nn.functional.conv2d(images, weight, None, shape.stride, shape.padding, shape.dilation, shape.groups)
        assert (given.shape, made.shape) == (list(images.shape), list(result.shape))
    for runtime in ("onnxruntime", "torch"):
        assert time_layer(shape, Setting(runtime, 1, 2)) > 0


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, 2, 1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 48, 3, 2, 1),
        nn.BatchNorm2d(48),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(48, 5),
    ).eval()
    return describe(model, ModelSpec("small", tuple("abcde"), input_size=(16, 16)))


def test_the_size_of_a_file_that_is_not_written(network: nn.Module) -> None:
    pytest.importorskip("onnxscript")
    graph = channel_sets(network, torch.rand(1, 3, 16, 16))
    content = onnx_content(network)
    size = FileSize.of(content, graph)
    assert size.bytes(Selection(graph)) == pytest.approx(len(content))
    selection = Selection(graph, {each.name: np.arange(each.size // 4) for each in graph.prunable})
    pruned = describe(rebuild(network, selection), network.spec)  # type: ignore[arg-type]
    assert size.bytes(selection) == pytest.approx(len(onnx_content(pruned)), rel=0.01)


def test_networks_are_timed_side_by_side(network: nn.Module) -> None:
    pytest.importorskip("onnxscript")
    content = onnx_content(network)
    first, second = time_files({"a": content, "b": content}, (3, 16, 16), Setting("onnxruntime", 1, 3), 0.01)
    (third,) = time_modules({"a": network}, (3, 16, 16), Setting("torch", 1, 3), 0.01)
    assert [each.runtime for each in (first, second, third)] == ["onnxruntime", "onnxruntime", "torch"]
    assert {(each.batch, each.threads) for each in (first, second, third)} == {(3, 1)}

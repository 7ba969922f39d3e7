"""A quick export returns the same graph as a plain one."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch._decomp import decomposition_table
from torch._subclasses.fake_tensor import FakeTensorMode

from cfp_cli.foundation.errors import GraphError
from cfp_cli.graph.quick_export import quick_export, shape_rules
from cfp_cli.graph.trace import TracedGraph, trace

IMAGE = torch.zeros(1, 3, 64, 64)
INPUTS: dict[str, Callable[[], Tensor]] = {
    "contiguous": lambda: torch.rand(2, 4, 6, 5),
    "channels last": lambda: torch.rand(2, 4, 6, 5).contiguous(memory_format=torch.channels_last),
    "transposed": lambda: torch.rand(2, 4, 6, 5).transpose(2, 3),
    "sliced": lambda: torch.rand(2, 4, 6, 10)[..., ::2],
    "double": lambda: torch.rand(2, 4, 6, 5, dtype=torch.float64),
}


def _facts(traced: TracedGraph) -> list[tuple[str, ...]]:
    facts = []
    for node in traced.nodes:
        value = node.meta.get("val")
        shape = (str(value.shape), str(value.stride()), str(value.dtype)) if isinstance(value, Tensor) else ()
        modules = str(list((node.meta.get("nn_module_stack") or {}).values()))
        facts.append((node.name, str(node.target), str(node.args), str(node.kwargs), *shape, modules))
    return facts


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "resnet18"])
def test_the_traced_graph_is_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = torchvision.models.get_model(name, weights=None).eval()
    quick = _facts(trace(model, IMAGE))
    monkeypatch.setattr(sys.modules["cfp_cli.graph.trace"], "quick_export", contextlib.nullcontext)
    assert _facts(trace(model, IMAGE)) == quick


@pytest.mark.parametrize("given", INPUTS)
def test_each_rule_returns_the_shape_type_and_order_of_the_reference(given: str) -> None:
    def facts(value: Any) -> Any:
        values = value if isinstance(value, tuple | list) else [value]
        return [(each.shape, each.stride(), each.dtype) for each in values]

    for operator, rule in shape_rules().items():
        mode = FakeTensorMode()
        x = mode.from_tensor(INPUTS[given]())
        with mode:
            vectors = [torch.ones(x.shape[1], dtype=x.dtype)] * 4
            arguments = (*vectors, 0.1, 1e-5) if "batch_norm" in str(operator) else ()
            expected = decomposition_table[operator](x, *arguments)
        assert facts(rule(mode, x, *arguments)) == facts(expected), operator


def test_a_sigmoid_of_integers_is_floating_point() -> None:
    mode = FakeTensorMode()
    rule = shape_rules()[torch.ops.aten.sigmoid.default]
    assert rule(mode, mode.from_tensor(torch.ones(3, dtype=torch.int64))).dtype == torch.sigmoid(torch.ones(3)).dtype


def test_no_reference_implementation_runs_where_there_is_a_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        pytest.fail("a reference implementation ran")

    for operator in shape_rules():
        monkeypatch.setitem(decomposition_table, operator, fail)
    trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU6(True), nn.Hardswish(), nn.ReLU()), IMAGE)


def test_an_error_leaves_collection_traces_and_rules_as_they_were() -> None:
    from torch._subclasses.fake_impls import get_fast_op_impls

    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    before = set(get_fast_op_impls())
    with pytest.raises(GraphError, match="cannot be traced"):
        trace(Branching(), IMAGE)
    assert gc.isenabled()
    assert set(get_fast_op_impls()) == before
    assert not torch.fx.config.do_not_emit_stack_traces
    gc.disable()
    try:
        with quick_export():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()

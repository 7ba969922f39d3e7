"""The costs of `cfp shrink`: what `RUN/costs.json` keeps, and when it is measured again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cfp_cli.checkpoints.spec import ModelSpec, describe
from cfp_cli.exporting.layer_times import Setting
from cfp_cli.foundation.content_hash import KEY, write_hashed_json
from cfp_cli.foundation.errors import RunError
from cfp_cli.foundation.progress import SILENT
from cfp_cli.graph import ChannelGraph, Selection, channel_sets
from cfp_cli.graph.layer_shapes import LayerShape
from cfp_cli.pruning.plan import Plan, SetPlan
from cfp_cli.runs import shrink_costs
from cfp_cli.runs.shrink_costs import Costs, cost_texts

TORCH = Setting("torch", 1, 1)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    model.append(nn.Linear(64, 4))
    return describe(model.eval(), ModelSpec("small", tuple("abcd"), input_size=(16, 16)))


@pytest.fixture(scope="module")
def graph(network: nn.Module) -> ChannelGraph:
    return channel_sets(network, torch.rand(1, 3, 16, 16))


@pytest.fixture
def opened(
    network: nn.Module, graph: ChannelGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Costs]:
    """Open the costs of a run. A network takes 1 ms and 2 for each 1000 channel pairs of its layers."""

    def time_layer(shape: LayerShape, _setting: Setting) -> float:
        return shape.inputs * shape.outputs / 1000

    monkeypatch.setattr(shrink_costs, "time_layer", time_layer)
    monkeypatch.setattr(Costs, "_measured", lambda self, selection: 1 + 2 * self.layers(selection))
    return lambda setting=TORCH: Costs(tmp_path, "0" * 64, network, graph, setting, {"latency"}, SILENT)


def half(graph: ChannelGraph) -> Plan:
    """A plan that keeps half of each set."""
    sets = tuple(
        SetPlan(each.name, each.size, tuple(range(each.size if each.frozen else each.size // 2)), (), each.frozen)
        for each in graph.sets
    )
    return Plan(sets, 2, 1, 2, 1, 0.5, 0.5)


def test_estimates_meet_the_measured_networks(opened: Callable[..., Costs], graph: ChannelGraph) -> None:
    costs = opened()
    small = costs.calibrate(half(graph))
    assert costs.of_plan(half(graph))["latency"] == pytest.approx(small)
    assert costs.of(Selection(graph))["latency"] == pytest.approx(1 + 2 * (3 * 32 + 32 * 64 + 64 * 4) / 1000)
    quarter = {each.name: np.arange(each.size // 4) for each in graph.prunable}
    found = costs.of(Selection(graph, quarter))
    assert found["latency"] == pytest.approx(1 + 2 * (3 * 8 + 8 * 16 + 16 * 4) / 1000)
    assert (found["params"], found["macs"]) == (Selection(graph, quarter).parameters, Selection(graph, quarter).macs)
    assert costs.total("params") is None
    assert costs.total("latency")(Selection(graph, quarter)) == found["latency"]
    assert "about 1.43 ms" in cost_texts(found)


def test_a_run_measures_a_layer_once(
    opened: Callable[..., Costs], graph: ChannelGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened()
    first.calibrate(half(graph))
    identity = first.identity
    monkeypatch.setattr(shrink_costs, "time_layer", lambda *_: pytest.fail("measured again"))
    again = opened()
    again.calibrate(half(graph))
    assert again.identity == identity
    other = opened(Setting("torch", 2, 1))
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        other.layers(Selection(graph))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "cfp-costs/9"}, "has format 'cfp-costs/9'"),
        ({"layers": {"x": 0.0}}, "layers has a time of 0.0 ms"),
        ({"networks": {"x": "1"}}, "networks"),
        ({"threads": None}, "threads"),
    ],
)
def test_wrong_fields_are_named(
    opened: Callable[..., Costs], graph: ChannelGraph, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    opened().layers(Selection(graph))
    path = tmp_path / "costs.json"
    content = {name: value for name, value in json.loads(path.read_text()).items() if name != KEY}
    write_hashed_json(path, {**content, **change})
    with pytest.raises(RunError, match=message):
        opened()


def test_only_measurements_with_their_hash_are_believed(
    opened: Callable[..., Costs], graph: ChannelGraph, tmp_path: Path
) -> None:
    """A file that another tool, or a user, wrote or changed may hold times of another machine."""
    opened().layers(Selection(graph))
    path = tmp_path / "costs.json"
    content = json.loads(path.read_text())
    bare = {name: value for name, value in content.items() if name != KEY}
    for changed, message in (
        (bare, "has no hash of its content"),
        ({**content, "layers": {**bare["layers"], "x": 1.0}}, "is damaged"),
        ([1, 2], "has no hash of its content"),
    ):
        path.write_text(json.dumps(changed))
        with pytest.raises(RunError, match=f"{message}.*; delete the file to measure again$"):
            opened()


@pytest.mark.parametrize("name", ["machine", "runtime", "threads", "batch"])
def test_times_of_another_machine_or_runtime_are_measured_again(
    opened: Callable[..., Costs], graph: ChannelGraph, tmp_path: Path, name: str
) -> None:
    times = opened().layers(Selection(graph))
    path = tmp_path / "costs.json"
    content = {name: value for name, value in json.loads(path.read_text()).items() if name != KEY}
    halves = {each: value / 2 for each, value in content["layers"].items()}
    other = 7 if isinstance(content[name], int) else "another"
    write_hashed_json(path, {**content, "layers": halves})
    assert opened().layers(Selection(graph)) == pytest.approx(times / 2), "the stored times are used"
    write_hashed_json(path, {**content, "layers": halves, name: other})
    assert opened().layers(Selection(graph)) == times
    assert json.loads(path.read_text())[name] == content[name]

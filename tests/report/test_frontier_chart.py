"""The drawing of the frontier."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
import torch

from cfp_cli.foundation.typed_json import FieldError
from cfp_cli.measuring.metrics import compute_metrics
from cfp_cli.report.frontier import FrontierPoint, frontier_chart

LABELS = torch.arange(9) % 3


def point(params: int, loss: float, *, trained: bool = False, chosen: bool = False) -> FrontierPoint:
    metrics = compute_metrics(LABELS, LABELS, ("a", "<b>", "c"))
    return FrontierPoint(
        compression=1e6 / params,
        trained=trained,
        params=params,
        macs=100 * params,
        val=metrics,
        loss=loss,
        standard_error=0.1,
        passes=loss <= 0.5,
        chosen=chosen,
        seconds=1.0,
        latency_ms=params / 1e6,
    )


@pytest.mark.parametrize("max_loss", [0.0, 0.5, 100.0])
def test_every_candidate_is_drawn_inside_the_picture(max_loss: float) -> None:
    points = [point(900_000, -0.5), point(30_000, 0.0, trained=True, chosen=True), point(1, 80.0), point(30_000, 0.6)]
    for shown in (points, points[1:2]):
        for cost, label in (("params", "parameters"), ("macs", "multiply-adds <x>"), ("latency_ms", "ms")):
            drawing = ET.fromstring(frontier_chart(shown, cost, label, max_loss))
            marks = [each for each in drawing if each.get("class", "").startswith("point")]
            assert len(marks) == len(shown)
            assert [each.tag for each in drawing if each.get("class") == "chosen"] == ["circle"]
            for each in marks:
                x, y = (float(each.get(f"c{axis}") or each.get(axis) or "nan") for axis in "xy")
                assert 0 <= x <= 360
                assert 0 <= y <= 220
            errors = [each for each in drawing if each.get("class") == "error"]
            assert len(errors) == len(shown)
            for each in errors:
                assert 0 <= float(each.get("y2", "nan")) <= float(each.get("y1", "nan")) <= 220, "it points upwards"
            assert "chosen: 30,000 parameters" in drawing.attrib["aria-label"]


@pytest.mark.parametrize("cost", ["params", "macs", "latency_ms", "bytes"])
def test_a_network_that_costs_nothing_is_refused(cost: str) -> None:
    values = {**point(30_000, 0.0).__dict__, cost: 0}
    with pytest.raises(FieldError, match=f"{cost} is 0"):
        FrontierPoint(**values)

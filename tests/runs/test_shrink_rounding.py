"""The multiple of kept channels where `--round-to auto` leaves it open."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cfp_cli.pruning.frontier import Budget
from cfp_cli.runs.shrink_options import ShrinkOptions
from cfp_cli.runs.shrink_rounding import choose_multiple

LATENCY = (Budget.parse("latency<=1ms"),)


def chosen(sizes: tuple[int, ...], speeds: dict[int, float] | None = None, **options: Any) -> int:
    """The multiple for channel sets of these sizes; `speeds` has milliseconds by multiple, None forbids measuring."""
    graph = SimpleNamespace(prunable=[SimpleNamespace(size=size) for size in sizes])

    def layers_of(plan: SimpleNamespace) -> float:
        assert speeds is not None
        return speeds[plan.multiple]

    def plan_at(_compression: float, multiple: int) -> SimpleNamespace:
        return SimpleNamespace(multiple=multiple, macs_after=1000)

    return choose_multiple(ShrinkOptions(**options), graph, SimpleNamespace(layers_of=layers_of), plan_at)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sizes", "options", "multiple"),
    [
        ((64, 128, 512), {}, 1),
        ((64, 128, 512), {"target": "bytes"}, 1),
        ((64, 128, 512), {"target": "macs"}, 8),
        ((16, 32, 512), {"target": "macs"}, 1),
        ((), {"target": "macs"}, 1),
        ((16, 32, 512), {"target": "macs", "round_to": 4}, 4),
        ((64, 128), {"budgets": LATENCY, "round_to": 2}, 2),
    ],
)
def test_without_a_measurement(sizes: tuple[int, ...], options: dict[str, Any], multiple: int) -> None:
    assert chosen(sizes, **options) == multiple


@pytest.mark.parametrize(
    ("sizes", "speeds", "multiple"),
    [
        ((256, 512), {1: 4.0, 4: 2.0, 8: 1.0, 16: 0.99}, 8),
        ((256, 512), {1: 4.0, 4: 2.0, 8: 1.0, 16: 0.5}, 16),
        ((256, 512), {1: 1.0, 4: 1.0, 8: 1.1, 16: 1.2}, 1),
        ((64, 64), {1: 4.0, 4: 2.0, 8: 1.0}, 8),
        ((32, 48), {1: 4.0, 4: 2.0}, 4),
        ((12, 16, 24), {1: 4.0}, 1),
    ],
)
@pytest.mark.parametrize("options", [{"runtime": "torch"}, {"target": "latency"}, {"budgets": LATENCY}])
def test_the_fastest_multiple_that_leaves_room(
    sizes: tuple[int, ...], speeds: dict[int, float], multiple: int, options: dict[str, Any]
) -> None:
    assert chosen(sizes, speeds, **options) == multiple

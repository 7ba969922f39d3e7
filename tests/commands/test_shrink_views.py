"""`cfp shrink` says on what its losses were measured, and whether its search is complete."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cfp_cli.commands.shrink_figures import compared_images, verdict
from cfp_cli.measuring.compared import Loss
from cfp_cli.measuring.loss_rule import LOOKS, Judged


@pytest.mark.parametrize(
    ("views", "text"), [(1, "the 192 validation images"), (9, "9 views of each of the 192 validation images")]
)
def test_the_views_are_named(views: int, text: str) -> None:
    assert compared_images(SimpleNamespace(views=views, val=SimpleNamespace(images=192))) == text


@pytest.mark.parametrize(
    ("complete", "looks", "text"),
    [
        (True, 9, None),
        (False, 9, "the time limit ended the search, so a smaller network may pass"),
        (False, LOOKS, f"the search ended after {LOOKS} networks, so a smaller one may pass"),
    ],
)
@pytest.mark.parametrize("passes", [True, False])
def test_an_incomplete_search_is_said(complete: bool, looks: int, text: str | None, passes: bool) -> None:
    metrics = SimpleNamespace(
        complete=complete,
        frontier=[None] * looks,
        metric="macro_f1",
        max_loss=0.5,
        views=9,
        val=SimpleNamespace(images=192),
    )
    chosen = SimpleNamespace(params=1000, macs=1e6)
    loss = Loss(0.3 if passes else 0.4001, 0.1)
    done = SimpleNamespace(
        metrics=metrics, judged=Judged(loss, passes), chosen=chosen, compression=40.0, macs_ratio=20.0
    )
    lines = verdict(done)
    lost, together = ("0.30", "0.40") if passes else ("0.40", "0.5001")
    assert f"it loses {lost} points of macro-F1 on 9 views of each of the 192 validation images" in "\n".join(lines)
    assert f"0.10: {together} together; 0.5 may be lost" in "\n".join(lines)
    assert [line.partition(";")[0] for line in lines if "may pass" in line] == ([text] if text else [])
    assert ("no network that fits is within the loss" in lines[0]) != passes

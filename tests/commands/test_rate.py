"""Progress of long work: no rate before it means something, and units that people know."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cfp_cli.commands import console as console_module
from cfp_cli.commands.console import Console
from cfp_cli.commands.rate import Rate

SOURCE = Path(console_module.__file__).parents[1]


def rate_after(moments: list[float], total: int | None = 10) -> Rate:
    rate = Rate("layer", total)
    for done, now in enumerate(moments):
        rate.add(done, now)
    return rate


@pytest.mark.parametrize("moments", [[], [0.0], [0.0, 30.0], [0.0, 30.0, 31.0]])
def test_no_rate_before_three_items(moments: list[float]) -> None:
    rate = rate_after(moments)
    assert (rate.speed, rate.left) == ("", "")


def test_preparations_in_the_first_item_are_not_counted() -> None:
    rate = rate_after([0.0, 30.0, 32.0, 34.0])
    assert (rate.speed, rate.left) == ("2.0 s/layer", "0:14 left")
    assert rate_after([0.0, 9.0, 9.1, 9.2]).speed == "10.0 layer/s"
    assert rate_after([0.0, 1.0, 2.0, 3.0], total=None).left == ""
    assert rate_after([0.0, 0.0, 600.0, 1200.0], total=100).left == "16:10:00 left"
    assert rate_after([1.0, 1.0, 1.0, 1.0]).speed == "", "a clock that stands still"


def test_lines_in_a_pipe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 20))
    monkeypatch.setattr(console_module.time, "monotonic", lambda: float(next(clock)))
    assert list(Console().track(range(4), "fitting layers", unit="layer")) == [0, 1, 2, 3]
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "fitting layers: 1 of 4",
        "fitting layers: 2 of 4",
        "fitting layers: 3 of 4, 0:20 left, 20.0 s/layer",
    ]


def test_units_are_things_that_users_know() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    units = set(re.findall(r'unit(?:: str)? ?= ?"([^"]+)"', sources))
    assert units == {"batch", "batch size", "candidate", "image", "layer", "network", "step"}


def test_what_a_run_knows_is_said_once(cfp, model: Path, images: Path, tmp_path: Path, monkeypatch) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    content = torch.load(model, weights_only=True)
    torch.save(content["state_dict"], "plain.pth")
    options = ("--arch", content["arch"], "--input-size", 32)
    plain = cfp("score", "plain.pth", images, *options, "--images", 24)
    assert "plain.pth does not store its preprocessing; assuming" in plain.err
    assert "--normalise imagenet" in plain.err
    for command in (("prune", "--ratio", 0.5), ("report", "--no-bench")):
        later = cfp(*command)
        assert later.code == 0, later.err
        assert "assuming" not in later.err
        assert "as you passed" not in later.err

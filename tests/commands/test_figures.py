"""What commands say about accuracy: intervals, the worst class, and the word collapsed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rich.table import Table

from cfp_cli.checkpoints.load import load
from cfp_cli.checkpoints.save import save
from cfp_cli.commands.console import Console


@pytest.fixture
def one_class(model: Path, tmp_path: Path) -> Path:
    """A network that names its third class for every image."""
    network = load(model)
    with torch.no_grad():
        head = network[-1]
        head.weight.zero_()
        head.bias.copy_(torch.eye(len(head.bias))[2])
    path = tmp_path / "one-class.pt"
    save(path, network)
    return path


def test_eval_calls_collapse_collapse(cfp, one_class: Path, images: Path, classes: tuple[str, ...]) -> None:
    shown = cfp("eval", one_class, images)
    assert shown.code == 0, shown.err
    line = f"collapsed: one-class.pt names '{classes[2]}' for 24 of 24 images"
    assert line in " ".join(shown.out.split())
    rows = [line.split("│")[1:-1] for line in shown.out.splitlines() if line.startswith("│")]
    cells = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows[: len(classes)]}
    assert cells[classes[0]][1] == "-"
    assert "-" not in cells[classes[2]]
    assert f"{len(classes) - 1} classes" in shown.out
    data = cfp("eval", one_class, images, "--json").json
    assert data["collapsed"] == classes[2]
    assert data["worst_class"]["recall"] == 0
    low, high = data["intervals"]["accuracy"]
    assert 0 < low < data["accuracy"] < high < 1


def test_prune_and_finetune_show_macro_f1_the_worst_class_and_collapse(
    cfp, one_class: Path, images: Path, classes: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cfp("score", one_class, images, "--images", 24).code == 0
    pruned = cfp("prune", "--ratio", 0.5)
    assert pruned.code == 0, pruned.err
    for words in ("val macro-F1", "val worst class", "collapsed: pruned.pt names"):
        assert words in " ".join(pruned.out.split())
    stages = cfp("prune", "--ratio", 0.5, "--json").json["validation"]
    assert list(stages)[:2] == ["before", "rebuilt"]
    for each in stages.values():
        assert {"accuracy", "macro_f1", "worst_class", "collapsed", "intervals"} <= each.keys()
        assert each["collapsed"] == classes[2]
    tuned = cfp("finetune", "--teachers", one_class, "--epochs", 1, "--views", 1, "--batch-size", 16, "--lr", 1e-9)
    assert tuned.code == 0, tuned.err
    assert "worst class" in " ".join(tuned.out.split())
    assert "collapsed: finetuned.pt names" in " ".join(tuned.out.split())


LONG = "features.stage_" + "x" * 150 + ".conv"


def test_names_are_not_cut_when_piped(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    table = Table("layer", *(f"column {index}" for index in range(40)), title="wide")
    table.add_row(LONG, *["123,456,789"] * 40)
    Console().result({}, table)
    rows = capsys.readouterr().out.splitlines()
    row = next(line for line in rows if LONG in line)
    assert row.count("123,456,789") == 40
    # The title is centred over the table, not over the width of the pipe.
    assert max(map(len, rows)) < 1000

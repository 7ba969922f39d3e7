"""The model card of a run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cfp_cli.checkpoints.load import load
from cfp_cli.checkpoints.spec import ModelSpec
from cfp_cli.foundation.files import sha256
from cfp_cli.report.card import _text
from cfp_cli.runs.directory import Run
from cfp_cli.runs.records import FinetuneRecord


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, built_in) -> Run:
    """A run that is scored, pruned and fine-tuned, of a model that a lineage entry calls by a hostile name."""
    import torch

    from cfp_cli.checkpoints.save import save
    from cfp_cli.checkpoints.spec import describe
    from cfp_cli.data.synthetic import generate
    from cfp_cli.models.registry import create
    from cfp_cli.pruning.options import PruneOptions
    from cfp_cli.runs.finetune import run_finetune
    from cfp_cli.runs.inputs import DataInput, ModelInput
    from cfp_cli.runs.prune import run_prune
    from cfp_cli.runs.score import ScoreOptions, run_score
    from cfp_cli.training.options import TrainOptions

    folder = tmp_path_factory.mktemp("card")
    images = generate(folder / "data", per_class=8, test_per_class=3, size=64)
    first = min((images / "train").iterdir())
    for split in ("train", "test"):
        (images / split / first.name).rename(images / split / "a|b <i> [`_*")
    classes = tuple(sorted(each.name for each in (images / "train").iterdir()))
    torch.manual_seed(0)
    arch = built_in("card_net", NET, "net")
    spec = ModelSpec(
        arch, classes, input_size=(32, 24), mean=(0.4, 0.5, 0.6), lineage=({"stage": "made", "by": "# me"},)
    )
    save(folder / "model.pt", describe(create(arch, len(classes)), spec))
    run, model, cpu = Run.open(folder / "run"), ModelInput(folder / "model.pt"), torch.device("cpu")
    run_score(run, model, DataInput(images), ScoreOptions(images=24), device=cpu)
    run_prune(run, None, PruneOptions(ratio=0.4904), device=cpu)
    options = TrainOptions.preset("paper", epochs=1, batch_size=16, views=1)
    run_finetune(run, None, None, [model], options, device=cpu)
    return run


NET = """
from torch import nn

def net(num_classes):
    return nn.Sequential(nn.Conv2d(3, 12, 3, 2), nn.ReLU(), nn.Conv2d(12, 16, 3, 2), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes))
"""


@pytest.fixture
def card(run: Run, tmp_path: Path) -> str:
    import torch

    from cfp_cli.runs.report import run_report

    done = run_report(run, card=tmp_path / "card.md", bench=False, device=torch.device("cpu"))
    assert done.card == tmp_path / "card.md"
    assert done.to_json()["card"] == str(done.card)
    return done.card.read_text(encoding="utf-8")


def test_the_card_has_what_a_user_of_the_network_needs(card: str, run: Run) -> None:
    record = run.require(FinetuneRecord)
    metrics = record.metrics.test
    sections = re.findall(r"^## (.*)$", card, re.MULTILINE)
    assert sections == ["Network", "Preprocessing", "Data", "Figures on the test images", "Limits", "Lineage"]
    # The network, its data and its teachers, by hash.
    for digest in (sha256(run.finetuned), record.inputs.data.sha256, record.inputs.teachers[0].sha256):
        assert f"`{digest}`" in card
    assert "Resize to 32 x 24 pixels (height x width)" in card
    assert "| mean | 0.4, 0.5, 0.6 |" in card
    low, high = metrics.intervals["accuracy"]
    assert f"{metrics.accuracy:.1%}".rstrip("%") in card
    assert f"| {low * 100:.1f} to {high * 100:.1f} |" in card
    for stage in ("made", "prune", "finetune"):
        assert f"- **{stage}**" in card
    assert "Few test images" in card
    assert ("It has collapsed" in card) == (metrics.collapse is not None)
    assert "test images | 18 (test/)" in card


def test_names_are_text_in_markdown(card: str, run: Run) -> None:
    name = r"a\|b \<i\> \[\`\_\*"
    assert name in card
    assert "<i>" not in card
    assert "by: \\# me" in card
    rows = [line for line in card.splitlines() if line.startswith("|")]
    # Each row of a table has as many cells as its head.
    cells = [len(re.split(r"(?<!\\)\|", row)) for row in rows]
    tables = re.split(r"\n\n", card)
    for table in (each for each in tables if each.startswith("|")):
        counts = {len(re.split(r"(?<!\\)\|", row)) for row in table.splitlines()}
        assert len(counts) == 1, table
    assert cells
    assert not re.search(r'[{\[]"|": ', card)
    assert _text("a\nb") == "a b"


def test_the_command_writes_it_to_the_run(run: Run, monkeypatch, capsys) -> None:
    import sys

    from cfp_cli.main import main

    arguments = ["cfp", "report", str(run.folder), "--no-bench", "--card", "--json"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as left:
        main()
    assert not left.value.code
    out = json.loads(capsys.readouterr().out)
    assert Path(out["card"]) == run.folder / "model-card.md"
    assert (run.folder / "model-card.md").is_file()
    assert load(run.finetuned) is not None
    monkeypatch.setattr(sys, "argv", [*arguments[:-2], "--card", str(run.pruned)])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert "choose another" in capsys.readouterr().err

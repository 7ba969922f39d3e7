"""The model card of a run."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from cfp_cli.checkpoints.load import load
from cfp_cli.checkpoints.spec import ModelSpec
from cfp_cli.foundation.files import sha256
from cfp_cli.report.card import _limits, _text
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


def test_the_card_can_be_read_on_another_computer(card: str, run: Run) -> None:
    assert str(run.folder) not in card
    assert str(run.folder.parent) not in card
    assert "| file | finetuned.pt |" in card
    assert "times fewer" in card
    # Every column and every row has a name.
    assert not re.search(r"^\|\s*\|", card, re.MULTILINE)
    assert "||" not in card.replace(" ", "")


def test_each_file_has_one_hash(card: str, run: Run) -> None:
    record = run.require(FinetuneRecord)
    hashes = {sha256(path) for path in run.folder.rglob("*") if path.is_file()}
    hashes |= {each.sha256 for each in record.inputs.by_name.values()} | {sha256(run.folder.parent / "model.pt")}
    assert set(re.findall(r"\b[0-9a-f]{64}\b", card)) <= hashes


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rolled-in_scale", "rolled-in_scale"),
        ("_a_", r"\_a\_"),
        ("a__b", r"a\_\_b"),
        ("a *b*", r"a \*b\*"),
        ("![", r"\!\["),
    ],
)
def test_only_characters_that_markdown_reads_are_escaped(text: str, shown: str) -> None:
    assert _text(text) == shown


def test_test_images_of_other_splits_are_a_limit(run: Run, tmp_path: Path) -> None:
    import shutil
    from dataclasses import replace as changed

    from cfp_cli.data.dataset import open_dataset
    from cfp_cli.data.duplicates import repeated_test_images

    data = tmp_path / "data"
    shutil.copytree(run.folder.parent / "data", data)
    assert repeated_test_images(open_dataset(data)) == []
    folder = min((data / "train").iterdir())
    shutil.copy(min(folder.iterdir()), data / "test" / folder.name / "copy.png")
    dataset = open_dataset(data)
    assert [path.name for path in repeated_test_images(dataset)] == ["copy.png"]
    page, facts = card_data(
        changed(dataset, split_origin={"train": "train/", "val": "made from train", "test": "test/"})
    )
    limits = " ".join(_limits(changed(page, repeated=1), facts))
    assert "1 test image has the content of a training or validation image" in limits
    # A validation split that was made from the training images says nothing about the test figures.
    assert "at random" not in limits
    made = changed(facts, origin={"test": "made from train, fraction 0.2, seed 0"})
    assert "chosen at random" in " ".join(_limits(page, made))


def card_data(dataset):
    from types import SimpleNamespace

    import torch

    from cfp_cli.measuring.metrics import compute_metrics
    from cfp_cli.report.card import DataFacts

    labels = torch.arange(len(dataset.classes)).repeat_interleave(40)
    metrics = compute_metrics(labels, labels, dataset.classes)
    return Page(SimpleNamespace(metrics=metrics), 0), DataFacts("data", "0" * 64, {}, dataset.split_origin)


@dataclass(frozen=True)
class Page:
    """The parts of the data of a page that decide the limits."""

    shown: object
    repeated: int

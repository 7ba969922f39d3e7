from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_one_line(result, code: int, *words: str) -> None:
    assert result.code == code, result.err
    lines = [line for line in result.err.splitlines() if not line.startswith("skipped")]
    assert len(lines) == 1, result.err
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]
    assert result.out == ""


@pytest.fixture
def broken_model(tmp_path: Path, model: Path):
    """Write a variant of the checkpoint whose content `change` has edited."""

    def write(change) -> Path:
        content = torch.load(model, weights_only=True)
        change(content)
        path = tmp_path / "broken.pt"
        torch.save(content, path)
        return path

    return write


def test_missing_paths(cfp, scored: Path, model: Path, images: Path, tmp_path: Path) -> None:
    before = snapshot(scored)
    assert_one_line(cfp("score", tmp_path / "no.pt", images), 1, "no.pt")
    assert_one_line(cfp("score", model, tmp_path / "nowhere"), 1, "nowhere")
    assert_one_line(cfp("finetune", "--teachers", tmp_path / "no.pt"), 1, "cfp prune")
    assert snapshot(scored) == before


def test_an_empty_class(cfp, scored: Path, model: Path, images: Path, tmp_path: Path) -> None:
    before = snapshot(scored)
    shutil.copytree(images, tmp_path / "data")
    (tmp_path / "data" / "train" / "zebra").mkdir()
    assert_one_line(cfp("score", model, tmp_path / "data"), 1, "zebra")
    assert snapshot(scored) == before


def test_a_checkpoint_of_another_architecture(cfp, scored: Path, images: Path, broken_model) -> None:
    before = snapshot(scored)
    other = broken_model(lambda content: content.update(arch="torchvision:squeezenet1_1"))
    assert_one_line(cfp("score", other, images), 1, "does not fit", "--arch")
    assert snapshot(scored) == before


def test_a_pickled_module(cfp, scored: Path, images: Path, tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "pickled.pt")
    assert_one_line(cfp("score", tmp_path / "pickled.pt", images), 1, "state_dict", "--unsafe-pickle")


def test_a_class_count_that_does_not_match(cfp, scored: Path, model: Path, images: Path, tmp_path: Path) -> None:
    before = snapshot(scored)
    shutil.copytree(images, tmp_path / "data")
    for split in ("train", "test"):
        shutil.rmtree(tmp_path / "data" / split / "scale")
    assert_one_line(cfp("score", model, tmp_path / "data"), 1, "6 classes", "5")
    assert snapshot(scored) == before


def test_classes_of_other_names(cfp, scored: Path, model: Path, images: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "data")
    for split in ("train", "test"):
        (tmp_path / "data" / split / "scale").rename(tmp_path / "data" / split / "zebra")
    assert_one_line(cfp("score", model, tmp_path / "data"), 1, "differently", "scale", "scratches")


def test_an_image_that_is_none_is_skipped_or_too_many_are_an_error(
    cfp, scored: Path, model: Path, images: Path, tmp_path: Path
) -> None:
    shutil.copytree(images, tmp_path / "data")
    shutil.copytree(images / "test", tmp_path / "data" / "val")
    folder = next((tmp_path / "data" / "train").iterdir())
    (folder / "broken.png").write_text("not an image")
    one = cfp("score", model, tmp_path / "data", "--images", 500, "--max-bad", "5%", "--run", tmp_path / "run")
    assert one.code == 0, one.err
    assert one.err.count("broken.png") == 1
    for number in range(3):
        (folder / f"more{number}.png").write_text("not an image")
    many = cfp("score", model, tmp_path / "data", "--images", 500, "--run", tmp_path / "run2")
    assert many.code == 1
    assert "error: " in many.err
    assert not (tmp_path / "run2").exists()


@pytest.mark.parametrize("ratio", ["1.2", "-0.1", "1", "nan"])
def test_a_ratio_out_of_range(cfp, scored: Path, ratio: str) -> None:
    before = snapshot(scored)
    assert_one_line(cfp("prune", "--ratio", ratio), 2, "not in [0, 1)")
    assert snapshot(scored) == before


def test_a_ratio_that_cannot_be_reached(cfp, scored: Path) -> None:
    before = snapshot(scored)
    assert_one_line(cfp("prune", "--ratio", "0.9", "--min-channels", 10), 3, "reachable")
    assert snapshot(scored) == before


def test_nan_in_the_weights(cfp, scored: Path, images: Path, broken_model) -> None:
    before = snapshot(scored)

    def poison(content) -> None:
        content["state_dict"]["0.0.weight"][0, 0, 0, 0] = float("nan")

    assert_one_line(cfp("score", broken_model(poison), images), 1, "NaN", "0.0.weight")
    assert snapshot(scored) == before


def test_steps_out_of_order(cfp, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert_one_line(cfp("prune", "--ratio", 0.5), 1, "cfp score")
    assert_one_line(cfp("finetune", "--teachers", model), 1, "cfp prune")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("prune",), ("--ratio",)),
        (("prune", "--ratio", "0.5", "--rates", "[0.5]"), ("either",)),
        (("prune", "--ratio", "0.5", "--clusters", "x"), ("cluster rule",)),
        (("prune", "--ratio", "0.5", "--keep", "nothing.*"), ("nothing.*", "cfp inspect")),
        (("prune", "--plan", "plan.json", "--steps", "2"), ("--plan", "--steps")),
        (("prune", "--ratoi", "0.5"), ("--ratoi", "--ratio")),
        (("prun",), ("prun", "prune")),
        (("finetune",), ("--teachers",)),
        (("score",), ("MODEL",)),
    ],
)
def test_wrong_usage(cfp, scored: Path, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    before = snapshot(scored)
    assert_one_line(cfp(*arguments), 2, *words)
    assert snapshot(scored) == before


def test_an_unknown_architecture_names_the_nearest(cfp, tmp_path: Path, images: Path) -> None:
    result = cfp("train", images, "--arch", "resnet81", "--out", tmp_path / "x.pt")
    assert_one_line(result, 2, "resnet81", "resnet18")

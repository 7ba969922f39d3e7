from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from cfp_cli.checkpoints.content_hash import KEY, content_hash


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
        content[KEY] = content_hash(
            {name: content[name] for name in content if name != "state_dict"}, content["state_dict"]
        )
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
    assert_one_line(cfp("score", model, tmp_path / "data"), 1, "differently", "'scale'", "'zebra'")


def test_a_broken_image_is_skipped_and_too_many_are_an_error(
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
    assert_one_line(cfp("prune", "--ratio", "0.9", "--min-channels", 10), 3, "can be removed")
    assert snapshot(scored) == before


def test_nan_in_the_weights(cfp, scored: Path, images: Path, broken_model) -> None:
    before = snapshot(scored)

    def poison(content) -> None:
        content["state_dict"]["0.0.weight"][0, 0, 0, 0] = float("nan")

    assert_one_line(cfp("score", broken_model(poison), images), 1, "NaN", "0.0.weight")
    assert snapshot(scored) == before


def test_commands_out_of_order(cfp, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        (("prune", "--plan", "plan.json", "--rounds", "2"), ("--plan", "--rounds")),
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


def test_a_third_teacher_is_not_taken_for_the_model(cfp, scored: Path, model: Path) -> None:
    done = cfp("finetune", "--teachers", model, model, model)
    assert_one_line(done, 2, "--teachers takes 2 values", model.name, "put arguments before options")


@pytest.mark.parametrize("name", ["m.onnx", "m.pt2"])
def test_an_exported_network_is_no_model(cfp, tmp_path: Path, images: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"whatever")
    assert_one_line(cfp("eval", tmp_path / name, images), 1, "exported network", "checkpoint")


def test_swapped_arguments(cfp, model: Path, images: Path) -> None:
    assert_one_line(cfp("score", images, model), 1, "is a folder", "pass the model first")


def test_text_is_no_checkpoint(cfp, tmp_path: Path, images: Path) -> None:
    (tmp_path / "m.pt").write_text("hello, world")
    assert_one_line(cfp("eval", tmp_path / "m.pt", images), 1, "not a readable checkpoint (PyTorch did not write it)")


def test_a_folder_without_write_permission_is_no_bug(cfp, model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = cfp("export", model, "--format", "pt2", "--out", tmp_path / "file" / "m.pt2")
    assert_one_line(done, 1, "cannot write", str(tmp_path / "file"), "use another folder")


FACTORIES = """
import torch
from torch import nn

def broken(num_classes):
    raise KeyError("weights")

class Pair(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.head = nn.Linear(3, classes)
    def forward(self, x):
        y = self.head(x.mean((2, 3)))
        return y, y

class Branch(Pair):
    def forward(self, x):
        y = self.head(x.mean((2, 3)))
        return y if x.sum() > 0 else -y
"""


@pytest.fixture
def factories(tmp_path: Path) -> Path:
    path = tmp_path / "nets.py"
    path.write_text(FACTORIES)
    return path


def test_a_factory_that_fails(cfp, images: Path, factories: Path, tmp_path: Path) -> None:
    done = cfp("train", images, "--arch", f"{factories}:broken", "--out", tmp_path / "m.pt")
    assert_one_line(done, 2, "cannot be built", "KeyError", "check its code")


def test_a_network_of_two_outputs(cfp, images: Path, factories: Path, tmp_path: Path) -> None:
    line = ("train", images, "--arch", f"{factories}:Pair", "--input-size", 32, "--epochs", 1, "--views", 1, "-q")
    assert_one_line(cfp(*line, "--out", tmp_path / "m.pt"), 1, "returns a tuple", "only the logits")


def test_a_network_that_cannot_be_traced(cfp, images: Path, factories: Path, tmp_path: Path) -> None:
    line = ("train", images, "--arch", f"{factories}:Branch", "--input-size", 32, "--epochs", 1, "--views", 1, "-q")
    assert cfp(*line, "--out", tmp_path / "m.pt").code == 0
    model = (tmp_path / "m.pt", "--arch", f"{factories}:Branch")
    assert_one_line(cfp("inspect", *model), 1, "cannot be traced", "control flow")
    done = cfp("export", *model, "--format", "pt2", "--out", tmp_path / "m.pt2", "-q")
    assert_one_line(done, 1, "cannot be traced for export", "data-dependent code")


def test_an_input_size_for_a_file_that_contains_one(cfp, model: Path, images: Path, tmp_path: Path) -> None:
    plain, other = cfp("eval", model, images, "--json"), cfp("eval", model, images, "--input-size", 64, "--json")
    assert other.json == plain.json
    assert "stores its input size, 32 x 32; the size that you pass is not used" in other.err
    assert "stores its input size" not in plain.err
    out = tmp_path / "larger.pt"
    larger = cfp("train", images, "--init", model, "--input-size", 48, "--epochs", 1, "--views", 1, "--out", out)
    assert larger.code == 0
    assert "was trained at 32 x 32 pixels; it will be trained at 48 x 48" in larger.err
    assert "is not used" not in larger.err
    assert torch.load(out, weights_only=True)["input_size"] == [48, 48]
    state = torch.load(model, weights_only=True)["state_dict"]
    torch.save(state, tmp_path / "bare.pt")
    arch = torch.load(model, weights_only=True)["arch"]
    bare = cfp("eval", tmp_path / "bare.pt", images, "--arch", arch, "--input-size", 32, "--json")
    assert bare.json == plain.json
    assert "assuming images of 32 x 32 pixels, mean 0, std 1" in bare.err


def test_warning_that_a_network_was_trained_on_other_splits(cfp, arch: str, images: Path, tmp_path: Path) -> None:
    """Another seed makes other splits of a folder without any."""
    flat, out = tmp_path / "flat", tmp_path / "m.pt"
    shutil.copytree(images / "train", flat)
    line = ("train", flat, "--arch", arch, "--input-size", 32, "--epochs", 1, "--views", 1, "-q")
    assert cfp(*line, "--seed", 3, "--out", out).code == 0
    warning = "was trained on other splits of these images"
    assert warning in cfp("eval", out, flat).err
    assert warning not in cfp("eval", out, flat, "--seed", 3).err

"""Networks without logits, and folders without class folders, go through score, prune, bench, export and inspect."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cfp_cli.checkpoints.load import load
from cfp_cli.checkpoints.save import save
from cfp_cli.checkpoints.spec import ModelSpec, describe, spec_of
from cfp_cli.execution.outputs import tensors_of
from cfp_cli.models.registry import create

Cfp = Callable[..., Any]

NET = """
import torch
from torch import nn

def block(i, o, stride):
    return nn.Sequential(nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU())

class Segmenter(nn.Module):
    def __init__(self, maps):
        super().__init__()
        self.a, self.b, self.c = block(3, 12, 2), block(12, 16, 1), block(16, 24, 2)
        self.up, self.maps, self.aux = nn.Conv2d(24, 16, 1), nn.Conv2d(16, maps, 1), nn.Conv2d(24, 2, 1)

    def forward(self, x):
        y = self.b(self.a(x))
        z = self.c(y)
        up = nn.functional.interpolate(self.up(z), scale_factor=2.0, mode="bilinear") + y
        return {"out": self.maps(up), "aux": [self.aux(z), None], "mask": self.maps(up).argmax(1)}

def with_classes(num_classes):
    return Segmenter(num_classes)

def without(num_classes):
    return Segmenter(3)

def no_arguments():
    return Segmenter(3)
"""
SIZE = (32, 32)


@pytest.fixture(scope="module")
def archs(built_in: Callable[[str, str, str], str]) -> dict[str, str]:
    return {name: built_in(f"dense_{name}", NET, name) for name in ("with_classes", "without")}


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """The images of a generated defect set in one folder."""
    folder = tmp_path_factory.mktemp("flat") / "images"
    folder.mkdir()
    for index, path in enumerate(sorted(images.rglob("*.png"))):
        (folder / f"{index:03d}.png").write_bytes(path.read_bytes())
    return folder


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory, archs: dict[str, str]) -> Path:
    """A checkpoint of a network without a class count."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("dense") / "dense.pt"
    save(path, create(archs["without"], 0), ModelSpec(archs["without"], (), input_size=SIZE))
    return path


@pytest.fixture
def pruned(cfp: Cfp, dense: Path, flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    scored = cfp("score", dense, flat, "--images", 24)
    assert scored.code == 0, scored.err
    assert scored.err.count("are used without labels") == 1
    assert "dense.pt returns no logits [images, classes]" in scored.err
    done = cfp("prune", "--ratio", "0.5", "--json")
    assert done.code == 0, done.err
    assert done.json["validation"] == {}
    assert done.json["accuracy"] == {}
    assert list(done.json["output_error"]) == ["before", "rebuilt", "reconstructed"]
    assert 0 == done.json["output_error"]["before"] < done.json["output_error"]["reconstructed"] < 1
    assert done.json["max_abs_logit_error"] < 1e-4
    return tmp_path / "cfp-run" / "pruned.pt"


def test_the_whole_way_without_labels(cfp: Cfp, pruned: Path, dense: Path) -> None:
    small, original = load(pruned), load(dense)
    assert spec_of(small).classes == ()
    x = torch.rand(2, 3, *SIZE)
    assert [each.shape for each in tensors_of(small(x))] == [each.shape for each in tensors_of(original(x))]
    shown = cfp("prune", "--ratio", "0.4")
    assert "of their spread" in shown.out
    assert "next: cfp finetune --teachers" in shown.out
    tuned = cfp("finetune", "--teachers", dense, "--epochs", "2", "--views", "1", "--batch-size", "16", "--json")
    assert tuned.code == 0, tuned.err
    assert tuned.json["val"] is None
    assert tuned.json["output_error"] <= json.loads(cfp("prune", "--ratio", "0.4", "--json").out)["output_error"][
        "reconstructed"
    ] * (1 + 1e-4)
    exported = cfp("export", "--format", "pt2", "--out", "small.pt2", "--json")
    assert exported.code == 0, exported.err
    assert (exported.json["samples"], exported.json["accuracy_before"]) == ("given", None)
    assert "classes" not in cfp("inspect", pruned).out.splitlines()[0]
    timed = cfp("bench", dense, pruned, "--seconds", "0.01", "--no-onnx", "--no-openvino", "--json")
    assert timed.json[0]["params"] > timed.json[1]["params"]
    record = json.loads(Path("cfp-run/run.json").read_text())["records"][0]
    assert record["inputs"]["data"]["labels"] is False


def test_commands_that_need_labels_refuse_in_one_line(cfp: Cfp, pruned: Path, dense: Path) -> None:
    for command in (
        ["report"],
        ["prune", "--ratio", "0.5", "--rounds", "2"],
        ["export", "--format", "onnx", "--int8", "--out", "small.onnx"],
    ):
        result = cfp(*command)
        assert result.code == 1
        assert "needs labels" in result.err.splitlines()[-1]


@pytest.mark.parametrize(
    "command",
    [
        ["eval", "{model}", "{data}"],
        ["predict", "{model}", "{data}"],
        ["shrink", "{model}", "{data}", "--max-loss", "1"],
        ["shrink", "{model}", "{data}", "--metric", "agreement"],
        ["train", "{data}", "--init", "{model}", "--out", "x.pt", "--epochs", "1"],
        ["compare", "{data}", "--teachers", "{model}", "--methods", "l1", "--ratios", "0.5"],
    ],
)
@pytest.mark.parametrize("labelled", [True, False])
def test_commands_on_classes_refuse_in_one_line(
    cfp: Cfp,
    dense: Path,
    images: Path,
    flat: Path,
    command: list[str],
    labelled: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = cfp(*(word.format(model=dense, data=images if labelled else flat) for word in command))
    assert result.code == 1
    errors = [line for line in result.err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert any(words in errors[0] for words in ("logits", "class folders", "no classes", "has no mask")), errors


def test_a_classifier_is_pruned_without_labels(
    cfp: Cfp, model: Path, flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scored = cfp("score", model, flat, "--images", 24)
    assert scored.code == 0, scored.err
    assert f"{flat} has no class folders" in scored.err
    done = cfp(
        "prune", "--ratio", "0.5", "--allocation", "measured", "--candidates", "3", "--batch-size", "8", "--json"
    )
    assert done.code == 0, done.err
    assert done.json["output_error"]["reconstructed"] < 1
    assert spec_of(load("cfp-run/pruned.pt")).classes == spec_of(load(model)).classes


def test_a_network_with_maps_of_classes_is_read_from_a_plain_file(
    cfp: Cfp, archs: dict[str, str], images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(create(archs["with_classes"], 5).state_dict(), "maps.pth")
    options = ("--arch", archs["with_classes"], "--input-size", "32")
    scored = cfp("score", "maps.pth", images, "--images", 12, *options)
    assert scored.code == 0, scored.err
    assert cfp("prune", "--ratio", "0.3").code == 0
    assert len(spec_of(load("cfp-run/pruned.pt")).classes) == 5


@pytest.mark.parametrize("factory", ["without", "no_arguments"])
def test_a_factory_without_a_class_count_needs_none(factory: str, tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(NET)
    arch = f"{tmp_path / 'nets.py'}:{factory}"
    torch.save(create(arch, 0).state_dict(), tmp_path / "m.pth")
    assert spec_of(load(tmp_path / "m.pth", arch, input_size=SIZE)).classes == ()
    named = load(tmp_path / "m.pth", arch, input_size=SIZE, classes=("a", "b", "c"))
    assert spec_of(named).classes == ("a", "b", "c")


def test_a_segmentation_network_of_torchvision_is_built_by_name() -> None:
    with torch.device("meta"):
        model = create("torchvision:lraspp_mobilenet_v3_large", 4)
    assert model.classifier.low_classifier.out_channels == 4


def test_describe_accepts_no_classes() -> None:
    assert spec_of(describe(torch.nn.Conv2d(3, 3, 1), ModelSpec("net.py:f", ()))).classes == ()

"""The options of files that do not store their preprocessing: sizes, channels, mean and std, class names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from cfp_cli.checkpoints.load import load
from cfp_cli.checkpoints.spec import spec_of
from cfp_cli.models.registry import create

NET = """
from torch import nn

def make(channels, num_classes):
    return nn.Sequential(nn.Conv2d(channels, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU(),
                         nn.Conv2d(24, 32, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(32, num_classes))

def grey(num_classes): return make(1, num_classes)
def colours(num_classes): return make(3, num_classes)
def four(num_classes): return make(4, num_classes)
def six(num_classes): return make(6, num_classes)
"""


@pytest.fixture
def arch(tmp_path: Path) -> str:
    (tmp_path / "net.py").write_text(NET)
    return f"{tmp_path}/net.py:"


def weights(path: Path, arch: str) -> Path:
    torch.manual_seed(0)
    torch.save(create(arch, 6).state_dict(), path)
    return path


def facts(cfp, *arguments: object) -> dict:
    result = cfp("inspect", *arguments, "--json")
    assert result.code == 0, result.err
    found: dict = result.json
    return found


@pytest.mark.parametrize(
    ("text", "size"), [("256", [256, 256]), ("32x160", [32, 160]), ("32X160", [32, 160]), ("32×160", [32, 160])]
)
def test_input_sizes(cfp, tmp_path: Path, arch: str, text: str, size: list[int]) -> None:
    file = weights(tmp_path / "w.pth", arch + "colours")
    assert facts(cfp, file, "--arch", arch + "colours", "--input-size", text)["input_size"] == size


@pytest.mark.parametrize("text", ["7", "32x", "x32", "32x32x3", "0x32", "-32", "32.5", "99999", "large"])
def test_impossible_input_sizes(cfp, tmp_path: Path, arch: str, text: str) -> None:
    result = cfp("inspect", tmp_path / "w.pth", f"--input-size={text}")
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert f"'{text}' is not" in result.err


@pytest.mark.parametrize(
    ("options", "mean", "std"),
    [
        (["--mean", "0.5", "0.4", "0.3"], (0.5, 0.4, 0.3), (1, 1, 1)),
        (["--mean", "0.5,0.4,0.3", "--std", "0.2 0.2 0.1"], (0.5, 0.4, 0.3), (0.2, 0.2, 0.1)),
        (["--mean=0.5", "--std=0.25"], (0.5,) * 3, (0.25,) * 3),
        (["--normalise", "imagenet"], (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        (["--normalise", "half"], (0.5,) * 3, (0.5,) * 3),
    ],
)
def test_mean_and_std(cfp, tmp_path: Path, images: Path, arch: str, options, mean, std) -> None:
    file = weights(tmp_path / "w.pth", arch + "colours")
    out = tmp_path / "out.pt"
    taught = ("--arch", arch + "colours", "--input-size", "24x32")
    result = cfp("train", images, "--init", file, *taught, *options, "--epochs", 1, "--views", 1, "--out", out)
    assert result.code == 0, result.err
    spec = spec_of(load(out, arch + "colours"))
    assert (spec.mean, spec.std, spec.input_size) == (mean, std, (24, 32))
    # A checkpoint stores its own values.
    again = cfp("eval", out, images, "--arch", arch + "colours", "--mean", "0.1")
    assert "stores its mean; the mean that you pass is not used" in again.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--mean", "123.7"], "is for images in [0, 255]; divide it by 255"),
        (["--std", "0"], "is not above 0"),
        (["--mean", "x"], "is not numbers such as"),
        (["--mean", "0.1,0.2"], "has 2 values but the network takes 3 channels"),
        (["--normalise", "half", "--mean", "0.5"], "leave out --mean and --std"),
        (["--classes", "a,a"], "one class twice"),
        (["--classes", "a,b"], "names 2 classes but its head has 6"),
    ],
)
def test_wrong_values_are_one_line(cfp, tmp_path: Path, arch: str, options: list[str], words: str) -> None:
    file = weights(tmp_path / "w.pth", arch + "colours")
    result = cfp("inspect", file, "--arch", arch + "colours", "--input-size", 32, *options)
    assert result.code in (1, 2)
    assert result.err.count("\n") == 1
    assert words in result.err


def test_class_names_of_a_file_without_them(cfp, tmp_path: Path, images: Path, classes, arch: str) -> None:
    file, names = weights(tmp_path / "w.pth", arch + "colours"), tuple(reversed(classes))
    (tmp_path / "names.txt").write_text("\n".join(names))
    for value in (",".join(names), tmp_path / "names.txt"):
        model = ("--arch", arch + "colours", "--input-size", 32, "--classes", value)
        assert facts(cfp, file, *model)["classes"] == list(names)
    reversed_order = cfp("eval", file, images, *model, "--json", "-q").json
    plain = cfp("eval", file, images, *model[:4], "--json", "-q").json
    assert list(reversed_order["per_class"]) == list(names)
    assert list(plain["per_class"]) == list(classes)


@pytest.mark.parametrize(("name", "channels"), [("grey", 1), ("four", 4)])
def test_channels_and_rectangles_on_every_command(
    cfp, tmp_path: Path, images: Path, arch: str, monkeypatch: pytest.MonkeyPatch, name: str, channels: int
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    file, code = weights(tmp_path / "w.pth", arch + name), ("--arch", arch + name)
    model = (*code, "--input-size", "24x40", "--mean", "0.4")
    for command in (
        ("inspect", file, *model),
        ("eval", file, images, *model),
        ("score", file, images, *model, "--images", 12),
        ("prune", "--ratio", 0.5, *code),
        ("finetune", "--teachers", file, *code, "--epochs", 1, "--views", 2),
        ("export", "--format", "onnx", "--out", "small.onnx", *code),
        ("export", file, "--format", "onnx", "--out", "plain.onnx", "--run", "none", *model),
        ("predict", "small.onnx", images / "test", "--csv", "out.csv"),
        ("bench", file, "cfp-run/finetuned.pt", *model, "--seconds", 0.01, "--batch-size", 1),
        ("report", "--no-bench", *code),
        ("train", images, *code, "--input-size", "24x40", "--epochs", 1, "--views", 1, "--out", "t.pt"),
    ):
        result = cfp(*command)
        assert result.code == 0, (command, result.err)
    spec = spec_of(load(tmp_path / "cfp-run/finetuned.pt", arch + name))
    assert (spec.channels, spec.input_size, spec.mean) == (channels, (24, 40), (0.4,) * channels)
    record = json.loads((tmp_path / "cfp-run/run.json").read_text())["records"][0]["inputs"]["model"]
    assert (record["input_size"], record["mean"]) == ([24, 40], [0.4])


def test_images_without_enough_channels_say_so(cfp, tmp_path: Path, images: Path, arch: str) -> None:
    file = weights(tmp_path / "w.pth", arch + "six")
    result = cfp("eval", file, images, "--arch", arch + "six", "--input-size", 32)
    assert result.code == 1
    assert "channels, the network needs 6" in result.err


def test_other_channels_for_an_architecture(cfp, tmp_path: Path, images: Path) -> None:
    out = tmp_path / "grey.pt"
    options = ("--arch", "torchvision:squeezenet1_1", "--input-size", 32, "--channels", 1, "--epochs", 1, "--views", 1)
    result = cfp("train", images, *options, "--out", out)
    assert result.code == 0, result.err
    assert spec_of(load(out)).channels == 1
    assert cfp("eval", out, images).code == 0


def test_export_reads_images_by_the_same_options(cfp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cfp_cli.foundation.errors import CfpError
    from cfp_cli.runs import export

    def stop(_run, _model, data, *_rest, **_options) -> None:
        raise CfpError(f"{data.path.name} {data.bit_depth} {data.max_bad}; stop")

    monkeypatch.setattr(export, "run_export", stop)
    options = ("--data", tmp_path / "lot", "--bit-depth", 12, "--max-bad", "5%")
    result = cfp("export", tmp_path / "m.pt", "--format", "pt2", "--out", tmp_path / "m.pt2", *options)
    assert result.err == "error: lot 12 0.05; stop\n"

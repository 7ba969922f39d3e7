"""A network that fails on the images, or returns no logits, is one line at each command; it is no bug of cfp."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cfp_cli.checkpoints.save import save
from cfp_cli.checkpoints.spec import ModelSpec, describe
from cfp_cli.models.registry import create

NETS = """
from torch import nn

class Net(nn.Module):
    def __init__(self, classes, size, statistics=True):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4, track_running_stats=statistics)
        self.head, self.side = nn.Linear(4 * (size // 2) ** 2, classes), nn.Linear(4, 4)

    def forward(self, x):
        return self.head(self.b(self.a(x)).flatten(1))

class OnlyTrains(Net):
    def forward(self, x):
        y = super().forward(x)
        return y if self.training else (y, y)

class OnlyTests(Net):
    def forward(self, x):
        if self.training:
            raise ValueError("one value per channel\\nsecond line")
        return super().forward(x)

def small(num_classes): return Net(num_classes, 32)
def large(num_classes): return Net(num_classes, 64)
def unsteady(num_classes): return Net(num_classes, 32, False)
def only_trains(num_classes): return OnlyTrains(num_classes, 32)
def only_tests(num_classes): return OnlyTests(num_classes, 32)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path / "nets.py"


def saved(file: Path, factory: str, size: int) -> Path:
    arch, path = f"{file}:{factory}", file.with_name(f"{factory}.pt")
    torch.manual_seed(0)
    model = describe(create(arch, 6), ModelSpec(arch, tuple("012345"), input_size=(size, size)))
    save(path, model)
    return path


TRAIN = ("--epochs", 1, "--views", 1, "--augment", "none", "--input-size", 32, "--device", "cpu")


def failure(result) -> str:
    assert result.code == 1, result.err
    last = result.err.splitlines()[-1]
    assert last.startswith("error: "), result.err
    assert "this is a bug" not in last
    return last


@pytest.mark.parametrize(
    "command",
    [
        lambda images, model, out: ("train", images, *TRAIN, "--out", out),
        lambda images, model, out: ("eval", model, images),
        lambda images, model, out: ("predict", model, images),
        lambda images, model, out: ("bench", model, "--no-onnx", "--no-openvino", "--seconds", 0.01),
        lambda images, model, out: ("score", model, images, "--run", out),
        lambda images, model, out: ("export", model, "--format", "pt2", "--out", out),
        lambda images, model, out: ("inspect", model),
    ],
)
def test_a_network_of_another_size(cfp, file: Path, images: Path, command) -> None:
    model = saved(file, "large", 32)
    line = failure(cfp(*command(images, model, file.with_name("out.pt2")), "--arch", f"{file}:large"))
    assert "the network fails on images of 3 x 32 x 32 (RuntimeError: " in line
    assert "--input-size" in line


def test_errors_of_one_mode_only(cfp, file: Path, images: Path, tmp_path: Path) -> None:
    train = ("train", images, *TRAIN, "--out", tmp_path / "t.pt", "--arch")
    assert "(ValueError: one value per channel);" in failure(cfp(*train, f"{file}:only_tests"))
    result = cfp(*train, f"{file}:only_trains")
    assert "returns a tuple" in failure(result)
    assert "NaN" not in result.err
    assert "warning: the network returns a tuple" in result.err


def test_batch_norm_without_statistics_is_said_by_each_command_that_starts(
    cfp, file: Path, images: Path, tmp_path: Path
) -> None:
    arch, model = ("--arch", f"{file}:unsteady"), saved(file, "unsteady", 32)
    for command in (
        ("train", images, *TRAIN, "--out", tmp_path / "t.pt"),
        ("eval", model, images),
        ("predict", model, images),
    ):
        result = cfp(*command, *arch)
        assert result.code == 0, result.err
        assert result.err.count("warning: the batch norm 'b' has no running statistics") == 1

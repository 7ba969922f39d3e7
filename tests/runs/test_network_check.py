"""What later commands cannot do with a network is said at the first one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lines import Lines
from torch import nn

from cfp_cli.checkpoints.fingerprint import fingerprint
from cfp_cli.checkpoints.load import load
from cfp_cli.checkpoints.spec import ModelSpec, describe, spec_of
from cfp_cli.foundation.errors import CheckpointError, UsageError
from cfp_cli.models.registry import create
from cfp_cli.runs.network_check import warn_of_probabilities, warn_of_problems

NETS = """
from torch import nn

class Net(nn.Module):
    def __init__(self, classes, statistics=True, output=lambda y, training: y):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=statistics)
        self.head, self.output = nn.Linear(4, classes), output

    def forward(self, x):
        return self.output(self.head(self.b(self.a(x)).mean((2, 3))), self.training)

class Own(Net):
    def __init__(self):
        super().__init__(3)

class Second(Net):
    def __init__(self, in_ch=3, n_class=2):
        super().__init__(n_class)
        assert in_ch == 3

class Third(Net):
    def __init__(self, n_channels, n_classes, bilinear=False):
        super().__init__(n_classes)
        assert n_channels == 3

class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4 * 14 * 14, 3)

    def forward(self, x):
        return self.head(self.a(x).flatten(1))

def good(num_classes): return Net(num_classes)
def unsteady(num_classes): return Net(num_classes, False)
def auxiliary(num_classes): return Net(num_classes, output=lambda y, training: (y, y) if training else y)
def mapping(num_classes): return Net(num_classes, output=lambda y, training: {"logits": y})
def pair(num_classes): return Net(num_classes, output=lambda y, training: {"logits": y, "more": [y]})
def probable(num_classes): return Net(num_classes, output=lambda y, training: y.softmax(1))
def random(num_classes): return Net(num_classes, output=lambda y, training: nn.functional.dropout(y))
def wide(num_classes): return Net(num_classes + 1)
def ignores(num_classes): return Net(3)

instance = Net(3)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path / "nets.py"


@pytest.mark.parametrize(
    ("factory", "classes", "warnings"),
    [
        ("good", 3, []),
        ("unsteady", 3, ["'b' has no running statistics .*track_running_stats=True"]),
        ("good", 1, ["one logit, for a sigmoid"]),
        ("auxiliary", 3, ["in training mode the network returns a tuple of 2 tensors, not logits .*cfp finetune"]),
        ("mapping", 3, []),
        ("pair", 3, ["^warning: the network returns a dict of 2 tensors, not logits"]),
        ("probable", 3, ["returns probabilities, not logits.*leave the softmax out"]),
        ("random", 3, [r"random in eval mode: .*training=self\.training"]),
        ("wide", 3, [r"returns \[2, 4\] for 2 images, not logits \[2, 3\]"]),
    ],
)
def test_each_problem_is_one_line(file: Path, factory: str, classes: int, warnings: list[str]) -> None:
    import re

    arch = f"{file}:{factory}"
    model = create(arch, classes).eval()
    describe(model, ModelSpec(arch, tuple(map(str, range(classes)))))
    before, progress = fingerprint(model), Lines()
    warn_of_problems(model, torch.rand(1, 3, 16, 16), progress)
    assert len(progress.lines) == len(warnings), progress.lines
    for pattern, line in zip(warnings, progress.lines, strict=True):
        assert re.search(pattern, line.replace(", so", " ")), line
    assert fingerprint(model) == before
    assert not model.training


@pytest.mark.parametrize("factory", ["Own", "Second", "Third", "ignores"])
def test_factories_as_beginners_write_them_are_called(file: Path, tmp_path: Path, factory: str) -> None:
    arch = f"{file}:{factory}"
    model = create(arch, 3)
    torch.save({"model": model.state_dict()}, tmp_path / "m.pt")
    loaded = load(tmp_path / "m.pt", arch, input_size=(16, 16))
    assert len(spec_of(loaded).classes) == 3
    assert fingerprint(loaded) == fingerprint(model)


def test_a_network_of_one_size_needs_that_size(file: Path, tmp_path: Path) -> None:
    arch = f"{file}:Flat"
    torch.save(create(arch, 3).state_dict(), tmp_path / "m.pt")
    assert len(spec_of(load(tmp_path / "m.pt", arch, input_size=(16, 16))).classes) == 3
    with pytest.raises(CheckpointError, match=r"fails on images of 3 x 224 x 224 .*--input-size"):
        load(tmp_path / "m.pt", arch)


def test_an_instance_is_no_factory(file: Path) -> None:
    with pytest.raises(UsageError, match="is a network, not a function; write `def factory"):
        create(f"{file}:instance", 3)


def test_the_output_is_one_module(file: Path) -> None:
    assert isinstance(create(f"{file}:good", 2), nn.Module)


SCALING = """
import torch
from torch import nn

class Scaled(nn.Module):
    def __init__(self, classes, name):
        super().__init__()
        self.register_buffer(name, torch.full((1, 3, 1, 1), 0.4))
        self.name, self.a, self.head = name, nn.Conv2d(3, 4, 3), nn.Linear(4, classes)

    def forward(self, x):
        return self.head(self.a(x - getattr(self, self.name)).mean((2, 3)))

def inside(num_classes): return Scaled(num_classes, "pixel_mean")
def other(num_classes): return Scaled(num_classes, "offset")
def grey(num_classes):
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))
"""


def saved(tmp_path: Path, factory: str) -> tuple[Path, str]:
    (tmp_path / "scaled.py").write_text(SCALING)
    arch = f"{tmp_path / 'scaled.py'}:{factory}"
    torch.save(create(arch, 3).state_dict(), tmp_path / "m.pt")
    return tmp_path / "m.pt", arch


@pytest.mark.parametrize(("factory", "advised"), [("inside", False), ("other", True)])
def test_a_network_that_normalises_itself_gets_no_advice_to_normalise(
    tmp_path: Path, factory: str, advised: bool
) -> None:
    path, arch = saved(tmp_path, factory)
    progress = Lines()
    load(path, arch, progress=progress)
    (line,) = progress.lines
    assert ("--normalise" in line) == advised
    assert ("normalises its images itself ('pixel_mean')" in line) != advised


def test_three_values_for_a_grey_network_say_which_one_to_pass(tmp_path: Path) -> None:
    path, arch = saved(tmp_path, "grey")
    with pytest.raises(UsageError, match=r"takes 1 channel; .*such as their mean, 0\.449, instead of --normalise"):
        load(path, arch, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@pytest.mark.parametrize(("factory", "warned"), [("probable", True), ("good", False)])
def test_probabilities_are_reported_before_they_are_used(file: Path, factory: str, warned: bool) -> None:
    model = create(f"{file}:{factory}", 3)
    progress = Lines()
    warn_of_probabilities(model, torch.rand(2, 3, 16, 16), progress)
    assert [line for line in progress.lines if "softmax is applied twice" in line] == progress.lines
    assert len(progress.lines) == warned
    assert model.training

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from cfp_cli.checkpoints.load import load
from cfp_cli.checkpoints.save import save
from cfp_cli.checkpoints.spec import ModelSpec, describe, spec_of
from cfp_cli.data.dataset import open_dataset
from cfp_cli.data.images import sample
from cfp_cli.data.synthetic import generate
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.main import main
from cfp_cli.models.registry import create

NET = """
from torch import nn

def tiny(num_classes):
    def block(i, o, stride):
        return nn.Sequential(nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
    return nn.Sequential(block(3, 12, 2), block(12, 16, 2), block(16, 24, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(24, num_classes))
"""


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cfp = Callable[..., Result]


@pytest.fixture
def cfp(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cfp:
    """Run the command line in this process, as `main` would leave it."""

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["cfp", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        captured = capsys.readouterr()
        return Result(int(left.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated defect set with train and test, six classes."""
    return generate(tmp_path_factory.mktemp("images") / "data", per_class=12, test_per_class=4, size=64, imbalance=2.0)


@pytest.fixture(scope="session")
def arch(built_in: Callable[[str, str, str], str]) -> str:
    """A small network that is built in, in this process only."""
    return built_in("tiny", NET, "tiny")


@pytest.fixture(scope="session")
def own_arch(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same network as a user's own `file.py:factory`."""
    path = tmp_path_factory.mktemp("net") / "net.py"
    path.write_text(NET)
    return f"{path}:tiny"


@pytest.fixture(scope="session")
def classes(images: Path) -> tuple[str, ...]:
    return tuple(sorted(folder.name for folder in (images / "train").iterdir()))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, arch: str, classes: tuple[str, ...]) -> Path:
    """A checkpoint of the built-in small network, untrained."""
    return _untrained(tmp_path_factory.mktemp("model") / "model.pt", arch, classes)


@pytest.fixture(scope="session")
def own_model(tmp_path_factory: pytest.TempPathFactory, own_arch: str, classes: tuple[str, ...]) -> Path:
    """A checkpoint of the user's own network, untrained."""
    return _untrained(tmp_path_factory.mktemp("own-model") / "model.pt", own_arch, classes)


def _untrained(path: Path, arch: str, classes: tuple[str, ...]) -> Path:
    torch.manual_seed(0)
    save(path, describe(create(arch, len(classes)), ModelSpec(arch, classes, input_size=(32, 32))))
    return path


@pytest.fixture(scope="session")
def vary(images: Path) -> Callable[..., None]:
    """Write a copy of an untrained model with a bias by which it predicts several classes."""

    def write(source: Path, target: Path, arch: str | None = None) -> None:
        network = load(source, arch)
        store = sample(open_dataset(images), 48, 0, Preprocessing.of(spec_of(network)))
        with torch.no_grad():
            logits = network(next(iter(store.batches(48)))[0])
            network[-1].bias.sub_(logits.mean(0))
            network[-1].weight.mul_(20)
            network[-1].bias.mul_(20)
        save(target, network, spec_of(network))

    return write


@pytest.fixture
def scored(cfp: Cfp, tmp_path: Path, model: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run directory, the default one of the current folder, in which the model is scored."""
    monkeypatch.chdir(tmp_path)
    assert cfp("score", model, images, "--images", 24).code == 0
    return tmp_path / "cfp-run"

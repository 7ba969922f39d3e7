"""Files without a usable head, such as self-supervised encoders: `with_new_head` adds one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cfp_cli.checkpoints.fingerprint import fingerprint
from cfp_cli.checkpoints.load import load
from cfp_cli.checkpoints.new_head import with_new_head
from cfp_cli.checkpoints.save import save
from cfp_cli.checkpoints.spec import spec_of
from cfp_cli.foundation.errors import CfpError, CheckpointError, UsageError
from cfp_cli.graph import channel_sets
from cfp_cli.models.registry import create

NETS = """
from torch import nn

class Net(nn.Module):
    def __init__(self, classes=0, output=lambda maps: maps.mean((2, 3))):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3))
        self.fc = nn.Linear(12, classes) if classes else nn.Identity()
        self.output = output

    def forward(self, x):
        return self.fc(self.output(self.body(x)))

def classifier(num_classes): return Net(num_classes)
def features(): return Net()
def maps(): return Net(output=lambda maps: maps)
def tokens(): return Net(output=lambda maps: maps.flatten(2))
def several(): return Net(output=lambda maps: (maps, maps))
"""
State = dict[str, Any]
CLASSES = ("crack", "ok", "scratch")


@pytest.fixture
def arch(tmp_path: Path) -> str:
    (tmp_path / "nets.py").write_text(NETS)
    return f"{tmp_path}/nets.py:"


def encoder(arch: str) -> State:
    torch.manual_seed(0)
    return dict(create(f"{arch}features", 3).state_dict())


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


PROJECTION: State = {"fc.0.weight": torch.rand(12, 12), "fc.0.bias": torch.rand(12), "fc.2.weight": torch.rand(5, 12)}


@pytest.mark.parametrize(
    "write",
    [
        lambda body: body,
        lambda body: {"state_dict": prefixed("module.encoder_q.", {**body, **PROJECTION})},
        lambda body: {**prefixed("backbone.", body), "projector.0.weight": torch.rand(5, 12)},
        lambda body: {"model": body, "classes": list("abcdefgh")},
        lambda body: {**body, "fc.weight": torch.rand(7, 12), "fc.bias": torch.rand(7)},
    ],
    ids=["plain", "moco", "simclr", "with-classes", "other-head"],
)
def test_weights_without_a_fitting_head(tmp_path: Path, arch: str, write: Callable[[State], State]) -> None:
    body = encoder(arch)
    torch.save(write(body), tmp_path / "m.pth")
    loaded = load(tmp_path / "m.pth", f"{arch}classifier", without_head=True, input_size=(16, 16))
    model = with_new_head(loaded, CLASSES)
    assert spec_of(model).classes == CLASSES
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in body.items())
    assert state["fc.weight"].shape == (3, 12)


def test_an_incomplete_body_is_no_encoder(tmp_path: Path, arch: str) -> None:
    torch.save({k: v for k, v in encoder(arch).items() if k != "body.3.weight"}, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=r"lacks 'body.3.weight'"):
        load(tmp_path / "m.pth", f"{arch}classifier", without_head=True)


def test_without_the_option_the_error_names_it(tmp_path: Path, arch: str) -> None:
    torch.save(encoder(arch), tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=r"lacks 'fc.weight', 'fc.bias'; .*--new-head"):
        load(tmp_path / "m.pth", f"{arch}classifier")
    assert spec_of(load(tmp_path / "m.pth", f"{arch}maps", input_size=(16, 16))).classes == ()


@pytest.mark.parametrize("factory", ["features", "maps"])
def test_an_architecture_without_a_head_gets_one(tmp_path: Path, arch: str, factory: str) -> None:
    body = encoder(arch)
    torch.save(body, tmp_path / "m.pth")
    loaded = load(tmp_path / "m.pth", arch + factory, without_head=True, input_size=(16, 16))
    model = with_new_head(loaded, CLASSES)
    assert model(torch.rand(2, 3, 16, 16)).shape == (2, 3)
    assert spec_of(model).arch_kwargs == {"added_head": 12}
    assert all(torch.equal(model.state_dict()[f"encoder.{name}"], value) for name, value in body.items())
    graph = channel_sets(model, torch.rand(2, 3, 16, 16))
    assert sum(not each.frozen for each in graph.sets) == 2
    save(tmp_path / "m.pt", model)
    again = load(tmp_path / "m.pt", arch + factory)
    assert fingerprint(again) == fingerprint(model)
    assert spec_of(with_new_head(again, ("a", "b"))).arch_kwargs == {"added_head": 12}


@pytest.mark.parametrize("factory", ["tokens", "several"])
def test_other_outputs_get_no_head(tmp_path: Path, arch: str, factory: str) -> None:
    torch.save(encoder(arch), tmp_path / "m.pth")
    loaded = load(tmp_path / "m.pth", arch + factory, without_head=True, input_size=(16, 16))
    with pytest.raises(UsageError, match="no head can be added; write a factory"):
        with_new_head(loaded, CLASSES)


@pytest.mark.parametrize("features", [0, -1, True, 2.5, "12", None, 2**17])
def test_a_file_may_not_ask_for_any_head(arch: str, features: object) -> None:
    if features is None:
        assert isinstance(create(f"{arch}features", 3, added_head=features), nn.Module)
        return
    with pytest.raises(CfpError, match="added_head"):
        create(f"{arch}features", 3, added_head=features)


def test_the_public_networks_of_torchvision(tmp_path: Path) -> None:
    body = {k: v for k, v in create("torchvision:resnet18", 2).state_dict().items() if not k.startswith("fc.")}
    torch.save(prefixed("module.", body), tmp_path / "m.pth")
    model = with_new_head(load(tmp_path / "m.pth", "torchvision:resnet18", without_head=True), CLASSES)
    assert model(torch.rand(1, 3, 32, 32)).shape == (1, 3)

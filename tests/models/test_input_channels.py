from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cfp_cli.checkpoints.fingerprint import fingerprint
from cfp_cli.checkpoints.load import load
from cfp_cli.checkpoints.save import save
from cfp_cli.checkpoints.spec import spec_of
from cfp_cli.foundation.errors import CheckpointError, UsageError
from cfp_cli.models.input_channels import input_channels, set_input_channels
from cfp_cli.models.registry import create


def net(channels: int, groups: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 6 * groups, 3, groups=groups),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6 * groups, 2),
    )


class ToGrey(nn.Module):
    """Converts colours itself, so it takes 3 channels although its first convolution has 1."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net(1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images.mean(1, keepdim=True))
        return logits


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_channels_are_those_of_the_first_convolution(channels: int) -> None:
    assert input_channels(net(channels), (8, 12)) == channels


def test_a_network_that_converts_colours_takes_three_channels() -> None:
    assert input_channels(ToGrey(), (8, 8)) == 3
    assert input_channels(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), (8, 8)) == 3


@pytest.mark.parametrize(
    "arch", ["vgg16_bn_gap", "repvgg_a0", "dddn", "torchvision:resnet18", "torchvision:densenet121"]
)
@pytest.mark.parametrize("channels", [1, 5])
def test_published_networks_take_other_channels(arch: str, channels: int) -> None:
    model = create(arch, 2)
    set_input_channels(model, channels, (32, 48))
    with torch.inference_mode():
        assert model.eval()(torch.rand(1, channels, 32, 48)).shape == (1, 2)
    assert input_channels(model, (32, 48)) == channels


def test_networks_that_take_the_channels_stay_as_they_are() -> None:
    for model, channels in ((net(4), 4), (ToGrey(), 3)):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        set_input_channels(model, channels, (8, 8))
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_grouped_first_convolutions_are_refused() -> None:
    with pytest.raises(UsageError, match="3 groups, so it cannot take 1;"):
        set_input_channels(net(3, groups=3), 1, (8, 8))


@pytest.mark.parametrize("arch", ["torchvision:resnet18", "torchvision:densenet121", "repvgg_a0", "dddn"])
@pytest.mark.parametrize("channels", [1, 4, 6])
def test_a_file_of_another_tool_decides_the_channels(tmp_path: Path, arch: str, channels: int) -> None:
    torch.manual_seed(0)
    model = create(arch, 2)
    set_input_channels(model, channels, (32, 32))
    torch.save(model.state_dict(), tmp_path / "grey.pth")
    loaded = load(tmp_path / "grey.pth", arch, input_size=(32, 48))
    assert spec_of(loaded).channels == channels
    assert fingerprint(loaded) == fingerprint(model)
    save(tmp_path / "grey.pt", loaded)
    assert spec_of(load(tmp_path / "grey.pt")).channels == channels


def test_other_shapes_are_still_refused(tmp_path: Path) -> None:
    state = create("torchvision:resnet18", 2).state_dict()
    for shape in ((64, 3, 3, 3), (32, 1, 7, 7)):
        torch.save({**state, "conv1.weight": torch.zeros(shape)}, tmp_path / "other.pth")
        with pytest.raises(CheckpointError, match=r"another shape of 'conv1.weight'"):
            load(tmp_path / "other.pth", "torchvision:resnet18")

"""Rebuilds are also checked on a single image, and attributes that a forward pass sets are not stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cfp_cli as cfp
from cfp_cli.checkpoints.load import load
from cfp_cli.checkpoints.save import save
from cfp_cli.checkpoints.spec import spec_of
from cfp_cli.foundation.errors import CheckpointError, ProofError
from cfp_cli.pruning.plan import Plan

IMAGES = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [(IMAGES, torch.zeros(8, dtype=torch.long))] * 2

Halves = Callable[[Tensor], tuple[Tensor, ...]]


class Net(nn.Module):
    """Multiplies two halves of its channels; `single` makes the halves of a single image."""

    def __init__(self, single: Halves) -> None:
        super().__init__()
        self.a, self.fc, self.single = nn.Conv2d(3, 32, 3), nn.Linear(16, 4), single

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).relu()
        one, other = self.single(y) if x.shape[0] == 1 else y.chunk(2, 1)
        return self.fc((one * other).mean((2, 3)))


def pruned(model: nn.Module) -> tuple[nn.Module, Plan]:
    return cfp.prune(model, cfp.score(model, BATCHES), 0.498, loader=BATCHES)


def other_order(y: Tensor) -> tuple[Tensor, ...]:
    """The same halves as long as there are 32 channels."""
    return y[:, :16] + (y.shape[1] - 32), y[:, y.shape[1] // 2 :][:, :16]


@pytest.mark.parametrize(
    ("single", "message"), [(lambda y: y.split(16, 1), "cannot run on a single image"), (other_order, "single image")]
)
def test_code_for_a_single_image_is_proven_too(single: Halves, message: str) -> None:
    with pytest.raises(ProofError, match=message):
        pruned(Net(single).eval())


@pytest.mark.parametrize("single", [lambda y: y.chunk(2, 1), lambda y: y.flip(1).chunk(2, 1)])
def test_other_networks_pass(single: Halves) -> None:
    assert pruned(Net(single).eval())[0](IMAGES[:1]).shape == (1, 4)


FACTORY = """
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.width, self.calls, self.a, self.fc = 16, 0, nn.Conv2d(3, 32, 3), nn.Linear(16, classes)

    def forward(self, x):
        self.calls += 1
        self.channels = x.shape[1] * self.calls
        one, other = self.a(x).relu().split(self.width, 1)
        return self.fc((one * other).mean((2, 3)))

def net(classes):
    return Net(classes)
"""


@pytest.fixture
def checkpoint(tmp_path: Path) -> tuple[Path, str, nn.Module]:
    (tmp_path / "net.py").write_text(FACTORY)
    arch, path = f"{tmp_path}/net.py:net", tmp_path / "model.pt"
    torch.save(cfp.create(arch, 4).state_dict(), tmp_path / "weights.pth")
    model = load(tmp_path / "weights.pth", arch, input_size=(8, 8))
    return path, arch, pruned(model)[0]


def test_numbers_that_a_forward_pass_changes_are_not_stored(checkpoint: tuple[Path, str, nn.Module]) -> None:
    path, arch, model = checkpoint
    save(path, model)
    assert set((spec_of(model).plan or {})["attributes"][""]) == {"width"}
    loaded = load(path, arch)
    assert loaded.calls == 0
    torch.testing.assert_close(loaded(IMAGES), model.eval()(IMAGES))


def test_a_network_that_is_pruned_twice_keeps_its_counts(checkpoint: tuple[Path, str, nn.Module]) -> None:
    path, arch, model = checkpoint
    save(path, model)
    again = load(path, arch)
    twice, plan = cfp.prune(again, cfp.score(again, BATCHES), 0.0, loader=BATCHES)
    assert not plan.attributes
    save(path, twice)
    torch.testing.assert_close(load(path, arch)(IMAGES), twice(IMAGES))


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"a": {"padding": [1000000, 1000000]}}, "no integer attribute 'a.padding'"),
        ({"a": {"stride": [0, 0]}}, "no integer attribute 'a.stride'"),
        ({"": {"width": 10**9}}, "counts only become smaller"),
        ({"": {"width": 0}}, "counts only become smaller"),
        ({"": {"width": -1}}, "counts only become smaller"),
    ],
)
def test_attributes_of_a_file_never_grow(
    checkpoint: tuple[Path, str, nn.Module], attributes: dict[str, Any], message: str
) -> None:
    path, arch, model = checkpoint
    own = spec_of(model)
    save(path, model, replace(own, plan={**(own.plan or {}), "attributes": attributes}))
    with pytest.raises(CheckpointError, match=message):
        load(path, arch)

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_resnet import small_resnet

from cfp_cli.checkpoints.save import save
from cfp_cli.checkpoints.spec import ModelSpec, describe
from cfp_cli.data.synthetic import generate
from cfp_cli.models.registry import create

NET = """\
from torch import nn


def factory(num_classes):
    def block(i, o):
        return nn.Sequential(nn.Conv2d(i, o, 3, 2, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU())

    head = nn.Linear(48, num_classes)
    return nn.Sequential(block(3, 16), block(16, 32), block(32, 48), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
"""
NEU = ("Cr", "In", "Pa", "PS", "RS", "Sc")


@pytest.fixture(scope="session")
def stock(tmp_path_factory: pytest.TempPathFactory, built_in: Callable[[str, str, str], str]) -> Path:
    """A folder with the files that the pages assume: `data/`, models and teachers, all of them tiny."""
    stock = tmp_path_factory.mktemp("stock")
    generate(stock / "data", per_class=8, test_per_class=2, size=64, imbalance=2.0)
    classes = tuple(sorted(folder.name for folder in (stock / "data" / "train").iterdir()))
    (stock / "net.py").write_text(NET)
    arch = built_in("small", NET, "factory")
    for seed, name in enumerate(("model.pt", "rl.pt", "cl.pt", "pruned.pt")):
        torch.manual_seed(seed)
        save(stock / name, describe(create(arch, len(classes)), ModelSpec(arch, classes, input_size=(32, 32))))
    torch.save(small_resnet(num_classes=len(classes)).state_dict(), stock / "weights.pth")
    raw = stock / "NEU-CLS"
    raw.mkdir()
    for name in NEU:
        for number in range(1, 9):
            Image.new("L", (32, 32), 10 * number).save(raw / f"{name}_{number}.bmp")
    return stock

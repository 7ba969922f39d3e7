"""`cfp bench` times a plain state dict on images of the size of the checkpoint beside it."""

from __future__ import annotations

from pathlib import Path

import torch

from cfp_cli.checkpoints.load import load
from cfp_cli.checkpoints.save import save
from cfp_cli.checkpoints.spec import ModelSpec, describe
from cfp_cli.commands.bench import times
from cfp_cli.models.registry import create


def test_a_plain_file_takes_the_size_of_the_checkpoint(cfp, tmp_path: Path) -> None:
    network = create("torchvision:resnet18", 2).eval()
    plain, own = tmp_path / "plain.pth", tmp_path / "own.pt"
    torch.save(network.state_dict(), plain)
    save(own, describe(network, ModelSpec("torchvision:resnet18", classes=("a", "b"), input_size=(48, 40))))
    assert load(own).spec.input_size == (48, 40)
    fast = ("--no-onnx", "--no-openvino", "--seconds", 0.01, "--threads", 1, "--batch-size", 1)
    for models in ((plain, own), (own, plain)):
        done = cfp("bench", *models, "--arch", "torchvision:resnet18", *fast, "--json")
        assert done.code == 0, done.err
        assert "different sizes" not in done.err
        assert done.json[0]["macs"] == done.json[1]["macs"]


def test_a_larger_model_has_more_not_a_fraction_fewer() -> None:
    assert [times(ratio) for ratio in (10, 1, 0.1)] == ["(10.0x fewer)", "(1.0x fewer)", "(10.0x more)"]

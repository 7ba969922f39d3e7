"""A self-supervised encoder without a head goes through the pipeline: `cfp train --init CKPT --new-head` adds one."""

from __future__ import annotations

from pathlib import Path

import torch

from cfp_cli.models.registry import create

ENCODER = """
from torch import nn

def encoder():
    return nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 32, 3))
"""


def test_an_encoder_from_training_to_prediction(cfp, images: Path, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(ENCODER)
    arch = ("--arch", f"{tmp_path}/own.py:encoder")
    torch.save({"state_dict": create(arch[1], 6).state_dict()}, tmp_path / "ssl.ckpt")
    out, run = tmp_path / "t.pt", ("--run", tmp_path / "run")
    size = ("--input-size", 16)
    assert cfp("inspect", tmp_path / "ssl.ckpt", *arch, *size).code == 0
    evaluated = cfp("eval", tmp_path / "ssl.ckpt", images, *arch, *size)
    assert evaluated.code == 1
    assert "--new-head" in evaluated.err
    for command in (
        (
            "train",
            images,
            "--init",
            tmp_path / "ssl.ckpt",
            "--new-head",
            *size,
            "--epochs",
            1,
            "--views",
            1,
            "--out",
            out,
        ),
        ("score", out, images, "--images", 8, *run),
        ("prune", "--ratio", 0.5, *run),
        ("predict", tmp_path / "run" / "pruned.pt", images / "test"),
    ):
        result = cfp(*command, *arch)
        assert result.code == 0, result.err
        assert "warning: the network" not in result.err

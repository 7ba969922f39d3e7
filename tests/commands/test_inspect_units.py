"""`cfp inspect` states how many outputs of a layer form a unit, such as an attention head."""

from __future__ import annotations

from pathlib import Path

import torch

from cfp_cli.models.registry import create

NETWORK = """
import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = 2
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x):
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, self.heads, 4).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Net(nn.Module):
    def __init__(self, num_classes, attention):
        super().__init__()
        self.patches, self.attention = nn.Conv2d(3, 8, 8, 8), Attention() if attention else nn.Identity()
        self.split, self.a, self.b = nn.Linear(8, 12), nn.Linear(6, 8), nn.Linear(6, 8)
        self.head = nn.Linear(8, num_classes)

    def forward(self, x):
        x = self.attention(self.patches(x).flatten(2).transpose(1, 2))
        a, b = self.split(x).relu().split(6, -1)
        return self.head((self.a(a) + self.b(b)).relu().mean(1))


def heads(num_classes):
    return Net(num_classes, True)


def plain(num_classes):
    return Net(num_classes, False)
"""


def test_inspect_states_units_of_several_outputs(cfp, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NETWORK)
    for factory in ("heads", "plain"):
        arch = f"{tmp_path / 'net.py'}:{factory}"
        torch.save(create(arch, 3).state_dict(), tmp_path / "m.pth")
        shown = cfp("inspect", tmp_path / "m.pth", "--arch", arch, "--input-size", 32)
        assert shown.code == 0, shown.err
        assert ("makes attention.qkv (2 units of 12)" in shown.out) == (factory == "heads"), shown.out
        assert ("unit: channels of a set that are kept or dropped together" in shown.out) == (factory == "heads")
        line = next(row for row in shown.out.splitlines() if " split Linear " in row)
        assert "units of" not in line, line

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cfp_cli.checkpoints.load import load
from cfp_cli.checkpoints.save import save
from cfp_cli.checkpoints.spec import ModelSpec, describe
from cfp_cli.foundation.errors import CheckpointError
from cfp_cli.models.registry import create
from cfp_cli.models.resize import resize_tensors
from cfp_cli.pruning.prune import prune
from cfp_cli.scoring.score import score

NETWORK = """
import torch
import torch.nn.functional as F
from torch import nn

class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = 4
        self.qkv, self.proj = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x):
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, self.heads, 4).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

class Torch(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]

class Network(nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.patch, self.attention, self.head = nn.Conv2d(3, 16, 4, 4), attention, nn.Linear(16, 3)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        return self.head((x + self.attention(x)).mean(1))

def own(num_classes):
    return Network(Heads())

def pytorch(num_classes):
    return Network(Torch())
"""


@pytest.mark.parametrize("kind", ["own", "pytorch"])
def test_heads_are_the_pruned_ones_after_loading(tmp_path: Path, kind: str) -> None:
    (tmp_path / "net.py").write_text(NETWORK)
    torch.manual_seed(0)
    arch = f"{tmp_path}/net.py:{kind}"
    spec = ModelSpec(arch, ("a", "b", "c"), input_size=(16, 16))
    model = describe(create(arch, 3).eval(), spec)
    images = [(torch.rand(4, 3, 16, 16), torch.zeros(4)) for _ in range(2)]
    pruned, plan = prune(model, score(model, images), rates="*=0.5")
    assert len(plan.kept["attention.attention" if kind == "pytorch" else "attention.qkv"]) < 4
    save(tmp_path / "m.pt", describe(pruned, ModelSpec(**{**spec.__dict__, "plan": plan.to_json()})))
    loaded = load(tmp_path / "m.pt", arch)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images[0][0]), pruned(images[0][0]), rtol=0, atol=0)


def test_channels_that_are_no_whole_heads_are_refused() -> None:
    attention = torch.nn.MultiheadAttention(16, 4)
    resize_tensors(attention, {"in_proj_weight": (24, 8), "in_proj_bias": (24,)})
    assert (attention.embed_dim, attention.num_heads, attention.head_dim) == (8, 2, 4)
    with pytest.raises(CheckpointError, match="an attention of 6 channels has no heads of 4 channels"):
        resize_tensors(attention, {"in_proj_weight": (18, 6), "in_proj_bias": (18,)})

"""Instance norms without tensors store their number of channels only in an attribute, which a rebuild must change."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from cfp_cli.checkpoints.fingerprint import fingerprint
from cfp_cli.checkpoints.load import load
from cfp_cli.checkpoints.save import save
from cfp_cli.checkpoints.spec import ModelSpec, describe, spec_of
from cfp_cli.models.registry import create
from cfp_cli.pruning.prune import prune
from cfp_cli.scoring.score import score

NETS = """
from torch import nn

def make(num_classes, **options):
    return nn.Sequential(
        nn.Conv2d(3, 24, 3), nn.InstanceNorm2d(24, **options), nn.ReLU(),
        nn.Conv2d(24, 24, 3), nn.InstanceNorm2d(24, **options), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, num_classes))

def plain(num_classes): return make(num_classes)
def affine(num_classes): return make(num_classes, affine=True)
def tracking(num_classes): return make(num_classes, track_running_stats=True)
"""


@pytest.mark.parametrize("factory", ["plain", "affine", "tracking"])
def test_widths_after_a_rebuild(tmp_path: Path, factory: str) -> None:
    (tmp_path / "nets.py").write_text(NETS)
    arch = f"{tmp_path}/nets.py:{factory}"
    torch.manual_seed(0)
    model = describe(create(arch, 3).eval(), ModelSpec(arch, ("a", "b", "c"), input_size=(16, 16)))
    loader = [(torch.rand(8, 3, 16, 16), torch.zeros(8, dtype=torch.int64))]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pruned, plan = prune(model, score(model, loader), ratio=0.6, loader=loader)
        save(tmp_path / "p.pt", describe(pruned, replace(spec_of(model), plan=plan.to_json())))
        loaded = load(tmp_path / "p.pt", arch)
        loaded(torch.rand(2, 3, 16, 16))
    assert not [each for each in caught if "num_features" in str(each.message)]
    assert fingerprint(loaded) == fingerprint(pruned)
    for network in (pruned, loaded):
        for convolution, norm in ((network[0], network[1]), (network[3], network[4])):
            assert isinstance(convolution, nn.Conv2d)
            assert norm.num_features == convolution.out_channels < 24

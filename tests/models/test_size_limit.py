from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cfp_cli.checkpoints.load import load
from cfp_cli.checkpoints.save import save
from cfp_cli.checkpoints.spec import ModelSpec, describe
from cfp_cli.foundation.errors import CheckpointError, UsageError
from cfp_cli.foundation.typed_json import FieldError
from cfp_cli.models.head import head_tensors
from cfp_cli.models.registry import create

NET = """
from torch import nn

def stack(num_classes, width=4, depth=1, **_):
    layers = [nn.Conv2d(3, width, 1)] + [nn.Conv2d(width, width, 3) for _ in range(depth)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))
"""


@pytest.fixture(scope="module")
def arch(built_in: Any) -> str:
    return built_in("stack", NET, "stack")


@pytest.mark.parametrize("kwargs", [{"width": 2**16}, {"depth": 2**16}, {"width": 2**15, "depth": 2**16}])
def test_a_network_that_grows_too_large_is_not_built(arch: str, kwargs: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    save(path, create(arch, 3), ModelSpec(arch, ("a", "b", "c"), arch_kwargs=kwargs))
    with pytest.raises(UsageError, match=r"has more than .* with these arguments; save the network again"):
        load(path)


@pytest.mark.parametrize("value", [2**16 + 1, -(2**17), 10**30, 1e300, [[1, 2**40]], {"a": 2**20}, [0] * 5000])
def test_numbers_in_arguments_of_a_file_are_limited(value: Any) -> None:
    with pytest.raises(FieldError, match="arch_kwargs"):
        ModelSpec("dddn", ("a",), arch_kwargs={"width": value})


def test_arguments_of_usual_size_are_kept(arch: str, tmp_path: Path) -> None:
    spec = ModelSpec(arch, ("a", "b", "c"), arch_kwargs={"width": 64, "depth": 3, "drop": 0.1, "flags": [True, None]})
    model = create(arch, 3, width=64, depth=3)
    save(tmp_path / "model.pt", describe(model, spec))
    assert isinstance(load(tmp_path / "model.pt"), nn.Sequential)
    assert head_tensors("torchvision:vgg16", {}) == ("classifier.6.weight", "classifier.6.bias")
    assert nn.Linear(2, 2).weight.shape == torch.Size((2, 2))


@pytest.mark.parametrize(
    "kwargs",
    [
        {"checkpoint_path": "weights"},
        {"pretrained": True},
        {"pretrained": 1},
        {"pretrained_cfg": {"file": "x"}},
        {"pretrained_cfg": 1},
        {"pretrained_cfg_overlay": {"hf_hub_id": "a"}},
        {"cache_dir": "x"},
        {"weights": "DEFAULT"},
        {"weights_backbone": "DEFAULT"},
        {"norm": {"checkpoint_path": "x"}},
        {"blocks": [{"load_from": "x"}]},
        {"act_layer": "../evil"},
        {"act_layer": "a.b"},
        {"act_layer": "http://x"},
        {"PRETRAINED": "x"},
    ],
    ids=str,
)
def test_arguments_that_read_files_are_refused(kwargs: dict[str, Any]) -> None:
    with pytest.raises(FieldError, match="arch_kwargs"):
        ModelSpec("timm:resnet18", ("a",), arch_kwargs=kwargs)


@pytest.mark.parametrize(
    "arch", ["timm:hf-hub:timm/resnet18.a1_in1k", "timm:local-dir:/tmp/x", "timm:hf_hub:x", "timm:/tmp/x", "timm:"]
)
def test_names_of_timm_that_load_files_are_unknown(arch: str, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    path = tmp_path / "model.pt"
    save(path, nn.Linear(2, 2), ModelSpec(arch, ("a", "b")))
    with pytest.raises((UsageError, CheckpointError), match="timm has no model"):
        load(path)

"""No code that a file names runs, damage is detected, and values that would give wrong results are refused by name."""

from __future__ import annotations

import json
import py_compile
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from lines import Lines
from torch import nn

from cfp_cli.checkpoints.fingerprint import fingerprint
from cfp_cli.checkpoints.load import load
from cfp_cli.checkpoints.save import save
from cfp_cli.checkpoints.spec import ModelSpec, describe, spec_of
from cfp_cli.foundation.errors import CheckpointError, UsageError
from cfp_cli.models.registry import create

FACTORY = """
import pathlib
from torch import nn

pathlib.Path({mark!r}).touch()

def net(classes, width=4):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(width, classes))
"""


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """The file that importing `net.py` makes."""
    path = tmp_path / "imported"
    (tmp_path / "net.py").write_text(FACTORY.format(mark=str(path)))
    return path


def network(arch: str, **kwargs: Any) -> nn.Module:
    torch.manual_seed(0)
    return describe(create(arch, 3, **kwargs).eval(), ModelSpec(arch, ("a", "b", "c"), kwargs, input_size=(16, 16)))


CONTAINERS = ["own.pt", "own.pth", "own.pth.tar", "own.safetensors", "foreign.pt", "foreign.safetensors"]


def write(path: Path, arch: str, model: nn.Module) -> None:
    if path.name.startswith("own"):
        save(path, model, replace(spec_of(model), arch=arch))
    elif path.suffix == ".safetensors":
        safetensors.torch.save_file(model.state_dict(), path, {"cfp": json.dumps({"arch": arch})})
    else:
        torch.save({"arch": arch, "state_dict": model.state_dict()}, path)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("kind", ["absolute", "relative", "compiled"])
def test_code_that_a_file_names_runs_only_if_the_user_names_it(
    tmp_path: Path, mark: Path, container: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = "net.py"
    if kind == "compiled":
        py_compile.compile("net.py", "net.pyc")
        source = "net.pyc"
    arch = f"{tmp_path / source if kind == 'absolute' else source}:net"
    path = tmp_path / container
    write(path, arch, network(arch))
    mark.unlink()
    refused = [None] if container.startswith("foreign") else [None, "dddn", "torchvision:resnet18", "other.py:net"]
    for given in refused:
        with pytest.raises(CheckpointError, match=r"names the Python code .*net\.pyc?:net.*; pass --arch"):
            load(path, given)
    assert not mark.exists()
    assert spec_of(load(path, arch)).arch == arch
    assert mark.exists()


def test_code_may_have_been_moved_since(tmp_path: Path, mark: Path) -> None:
    arch = f"{tmp_path / 'net.py'}:net"
    save(tmp_path / "m.pt", network(arch))
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "net.py", tmp_path / "elsewhere/net.py")
    moved = f"{tmp_path / 'elsewhere/net.py'}:net"
    assert spec_of(load(tmp_path / "m.pt", moved)).arch == moved


@pytest.mark.parametrize(
    "arguments",
    [
        {"checkpoint_path": "x.pth"},
        {"checkpoint_path": "word"},
        {"pretrained": True},
        {"pretrained_cfg": {"file": "x"}},
        {"pretrained_cfg_overlay": {}},
        {"weights": "DEFAULT"},
        {"weights_backbone": ["x"]},
        {"cache_dir": "x"},
        {"fused": "/etc/passwd"},
        {"fused": "../x"},
        {"fused": "x.pt"},
        {"fused": ["https://x"]},
        {"fused": {"url": "x"}},
        {"fused": float("inf")},
    ],
)
def test_arguments_from_a_file_load_nothing(tmp_path: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="arch_kwargs"):
        ModelSpec("repvgg_a0", ("a", "b"), arguments)
    model = network("repvgg_a0")
    save(tmp_path / "m.pt", model)
    content = torch.load(tmp_path / "m.pt", weights_only=True)
    del content["content_sha256"]
    torch.save(content | {"arch_kwargs": arguments}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=r"m\.pt: arch_kwargs"):
        load(tmp_path / "m.pt")


def test_plain_arguments_are_kept(tmp_path: Path) -> None:
    plain = {"drop_path_rate": 0.1, "act_layer": "gelu", "grad_checkpointing": False, "depths": [3, 3, 9], "x": None}
    assert ModelSpec("timm:convnext_tiny", ("a", "b"), plain).arch_kwargs == plain
    save(tmp_path / "m.pt", network("repvgg_a0", fused=True))
    assert spec_of(load(tmp_path / "m.pt")).arch_kwargs == {"fused": True}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, str]:
    folder = tmp_path_factory.mktemp("small")
    (folder / "net.py").write_text(FACTORY.format(mark=str(folder / "imported")))
    arch = f"{folder / 'net.py'}:net"
    return network(arch), arch


@pytest.mark.parametrize("name", ["m.pt", "m.safetensors"])
def test_flipped_bits_are_detected(tmp_path: Path, small: tuple[nn.Module, str], name: str) -> None:
    model, arch = small
    save(tmp_path / name, model)
    content = (tmp_path / name).read_bytes()
    generator = np.random.default_rng(0)
    expected = (spec_of(model), fingerprint(model))
    for position in generator.integers(0, len(content), 200):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(generator.integers(8))
        (tmp_path / name).write_bytes(damaged)
        try:
            loaded = load(tmp_path / name, arch)
        except CheckpointError:
            continue
        # Padding and headers that nothing reads may change.
        assert (spec_of(loaded), fingerprint(loaded)) == expected


def test_every_changed_field_is_detected(tmp_path: Path, small: tuple[nn.Module, str]) -> None:
    model, arch = small
    save(tmp_path / "m.pt", model)
    content = torch.load(tmp_path / "m.pt", weights_only=True)
    changes: dict[str, Any] = {
        "arch": "dddn",
        "arch_kwargs": {"width": 5},
        "classes": ["b", "a", "c"],
        "input_size": [16, 17],
        "mean": [0.1, 0.0, 0.0],
        "std": [1.0, 1.0, 1.1],
        "plan": {},
        "lineage": [{"stage": "train"}],
        "channels": 1,
        "bit_depth": 12,
        "format": "other",
        "state_dict": {name: value + 1 for name, value in content["state_dict"].items()},
    }
    assert changes.keys() | {"content_sha256"} == content.keys()
    for field, value in changes.items():
        torch.save(content | {field: value}, tmp_path / "m.pt")
        with pytest.raises(CheckpointError, match=r"m\.pt is damaged"):
            load(tmp_path / "m.pt", arch)


def test_an_old_file_without_a_hash_is_loaded_and_reported(tmp_path: Path, small: tuple[nn.Module, str]) -> None:
    model, arch = small
    save(tmp_path / "m.pt", model)
    content = torch.load(tmp_path / "m.pt", weights_only=True)
    del content["content_sha256"]
    torch.save(content, tmp_path / "m.pt")
    progress = Lines()
    assert fingerprint(load(tmp_path / "m.pt", arch, progress=progress)) == fingerprint(model)
    assert ["stores no hash of its content" in line for line in progress.lines] == [True]


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("0.weight", lambda v: v.to(torch.int64), "int64 numbers in '0.weight' where the network has float32"),
        ("0.weight", lambda v: v > 0, "bool numbers in '0.weight'"),
        ("0.weight", lambda v: v.to(torch.complex64), "complex numbers in '0.weight'"),
        ("0.weight", lambda v: v.to_sparse(), "sparse_coo tensor '0.weight'"),
        ("0.weight", lambda v: torch.quantize_per_tensor(v, 0.1, 0, torch.qint8), "quantised tensor '0.weight'"),
        ("1.num_batches_tracked", lambda v: torch.tensor(0.5), "float32 numbers in '1.num_batches_tracked'"),
        ("1.running_var", lambda v: -v, "negative variance in '1.running_var'"),
        ("1.running_mean", lambda v: v + float("inf"), "NaN or infinity in '1.running_mean'"),
        ("0.weight", lambda v: torch.zeros(1).expand(2**15, 2**17), "has a shape of 17,179,869,184 bytes"),
    ],
)
def test_numbers_that_would_be_converted_silently_are_refused(
    tmp_path: Path, small: tuple[nn.Module, str], name: str, change: Any, message: str
) -> None:
    model, arch = small
    state = model.state_dict()
    torch.save({**state, name: change(state[name])}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "m.pt", arch)


def test_a_state_dict_in_half_precision_is_accepted(tmp_path: Path, small: tuple[nn.Module, str]) -> None:
    model, arch = small
    torch.save({name: value.half() for name, value in model.state_dict().items()}, tmp_path / "m.pt")
    assert load(tmp_path / "m.pt", arch)[1].num_batches_tracked.dtype == torch.int64


@pytest.mark.parametrize("field", ["arch", "arch_kwargs", "classes", "input_size", "mean", "std", "plan", "lineage"])
@pytest.mark.parametrize("value", [None, 7, "text", ["x"], [], float("nan"), float("inf"), 0, 10**30, {"a": 1}, True])
def test_a_wrong_field_is_named(tmp_path: Path, small: tuple[nn.Module, str], field: str, value: Any) -> None:
    valid = {
        "arch": (),
        "arch_kwargs": ({"a": 1},),
        "classes": (["x"],),
        "plan": (None, {"a": 1}),
        "lineage": ([],),
        "mean": (),
        "std": (),
        "input_size": (),
    }
    model, arch = small
    save(tmp_path / "m.pt", model)
    content = torch.load(tmp_path / "m.pt", weights_only=True)
    del content["content_sha256"]
    torch.save(content | {field: value}, tmp_path / "m.pt")
    if value in valid[field] and not isinstance(value, bool):
        return
    if (field, value) == ("arch", "text"):
        with pytest.raises(UsageError, match="no architecture 'text'"):
            load(tmp_path / "m.pt", arch)
        return
    with pytest.raises(CheckpointError, match=rf"m\.pt: {field}") as caught:
        load(tmp_path / "m.pt", arch)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("std", [(1.0, 0.0, 1.0), (1.0, float("inf"), 1.0), (1.0, float("nan"), 1.0), (1.0, -1.0, 1.0)])
def test_a_spec_has_deviations_that_images_can_be_divided_by(std: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="std"):
        ModelSpec("dddn", ("a", "b"), std=std)

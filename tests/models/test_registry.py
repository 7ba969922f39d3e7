from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from cfp_cli.foundation.errors import CheckpointError, DataError, UsageError
from cfp_cli.graph import Selection, channel_sets
from cfp_cli.models.fuse import fuse
from cfp_cli.models.registry import create, known_architectures
from cfp_cli.models.resize import resize_tensors
from cfp_cli.pruning.rebuild import rebuild


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("arch", "classes", "count"),
    [
        ("vgg16_bn_gap", 2, 14_987_842),
        ("vgg16_bn_gap", 6, 14_989_894),
        ("vgg16_bn_gap", 7, 14_990_407),
        ("vgg16_bn_gap", 10, 14_991_946),
        ("repvgg_a0", 6, 7_835_654),
        ("repvgg_a0", 10, 7_840_778),
        ("dddn", 2, 605_186),
        ("dddn", 6, 605_446),
        ("dddn", 10, 605_706),
        ("torchvision:resnet50", 6, 23_520_326),
        ("mobilenet_v2", 6, 2_231_558),
    ],
)
def test_parameter_counts_are_the_published_ones(arch: str, classes: int, count: int) -> None:
    with torch.device("meta"):
        assert _parameters(create(arch, classes)) == count


def test_a_fused_repvgg_has_the_published_count() -> None:
    assert _parameters(create("repvgg_a0", 6, fused=True)) == 7_036_070


@pytest.mark.parametrize(
    ("arch", "side", "macs"),
    [
        ("vgg16_bn_gap", 64, 1_253.05e6),
        ("repvgg_a0", 128, 493.50e6),
        ("dddn", 128, 515.15e6),
        ("resnet50", 128, 1_334.59e6),
        ("mobilenet_v2", 128, 97.8e6),
    ],
)
def test_multiply_adds_are_the_published_ones(arch: str, side: int, macs: float) -> None:
    classes = 6 if arch == "resnet50" else 10
    graph = channel_sets(create(arch, classes).eval(), torch.rand(1, 3, side, side))
    assert Selection(graph).macs == pytest.approx(macs, rel=1e-3)


def test_vgg_takes_the_trained_weights(shared: Path) -> None:
    saved = torch.load(shared / "teachers" / "vgg16_neu-cls_rl.pt", weights_only=True)
    create("vgg16_bn_gap", 6).load_state_dict(saved["state_dict"])


def test_dddn_has_one_set_for_every_high_and_every_low_sum() -> None:
    graph = channel_sets(create("dddn", 6).eval(), torch.rand(1, 3, 32, 32))
    producers = {group.name: group.producers for group in graph.sets}
    for stage in range(1, 6):
        high = {f"octaves.{stage}.low_to_high", f"octaves.{stage}.high_to_high"}
        low = {f"octaves.{stage}.low_to_low", f"octaves.{stage}.high_to_low"}
        assert high in map(set, producers.values())
        assert low in map(set, producers.values())
    assert [group.size for group in graph.prunable] == [32, 32, 42, 6, 56, 8, 84, 12, 84, 12, 112, 16, 112, 16, 128, 64]


def test_dddn_names_a_side_that_fits() -> None:
    with pytest.raises(DataError, match=r"not 200 x 200; set --input-size 192"):
        create("dddn", 6)(torch.rand(1, 3, 200, 200))


def test_a_fused_network_computes_the_same() -> None:
    torch.manual_seed(0)
    model = create("repvgg_a0", 6).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    x = torch.rand(2, 3, 64, 64)
    graph = channel_sets(model, x[:1])
    pruned = rebuild(
        model, Selection(graph, {group.name: torch.arange(group.size // 3).numpy() for group in graph.prunable})
    )
    with torch.no_grad():
        for network in (model, pruned):
            expected, given = network(x), fuse(network)(x)
            assert float((given - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fuse(pruned).modules())
    # A fused pruned network loads into a fresh fused one.
    state = fuse(pruned).state_dict()
    fresh = create("repvgg_a0", 6, fused=True).eval()
    resize_tensors(fresh, {name: tuple(value.shape) for name, value in state.items()})
    fresh.load_state_dict(state)
    with pytest.raises(CheckpointError, match="no RepVGG training block"):
        fuse(fresh)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean resnet18"):
        create("resnet8", 6)
    with pytest.raises(UsageError, match="no architecture 'zzz'"):
        create("zzz", 6)
    with pytest.raises(UsageError, match="cannot be built"):
        create("vgg16_bn_gap", 6, depth=3)
    assert {"dddn", "repvgg_a0", "resnet50", "vgg16_bn_gap"} <= set(known_architectures())


def test_a_users_factory_is_called_with_the_class_count(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\n"
        "def named(num_classes=5, width=2):\n    return torch.nn.Linear(width, num_classes)\n"
        "def first(count):\n    return torch.nn.Linear(1, count)\n"
        "def wrong(classes):\n    return classes\n"
    )
    assert create(f"{file}:named", 7, width=4).weight.shape == (7, 4)
    assert create(f"{file}:first", 3).weight.shape == (3, 1)
    with pytest.raises(UsageError, match="returns a int"):
        create(f"{file}:wrong", 3)
    with pytest.raises(UsageError, match="has no function 'other'"):
        create(f"{file}:other", 3)
    with pytest.raises(UsageError, match="no file"):
        create(f"{tmp_path}/none.py:named", 3)
    file.write_text("import no_such_module_here\n")
    with pytest.raises(UsageError, match="cannot be imported"):
        create(f"{file}:named", 3)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys\nsys.exit()", "ends Python when it is imported .*; move what the script does below"),
        ("import argparse\nargparse.ArgumentParser().parse_args(['--x'])", r"ends Python .* \(SystemExit: 2\)"),
        ("def factory(num_classes): raise SystemExit(0)", "cannot be built .SystemExit: 0.; check its code"),
        (
            "from torch import nn\ndef factory(n): return nn.Sequential(nn.LazyLinear(n))",
            "lazy modules.*write their sizes",
        ),
        ("from torch import nn\ndef factory(n): return nn.Sequential(nn.LazyBatchNorm2d())", "lazy modules"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_scripts_and_lazy_modules_are_refused_in_one_line(tmp_path: Path, code: str, message: str, device: str) -> None:
    (tmp_path / "net.py").write_text(code)
    with torch.device(device), pytest.raises(UsageError, match=message):
        create(f"{tmp_path}/net.py:factory", 3)


@pytest.mark.parametrize("value", ["width.item()", "width.numpy()", "width.tolist()", "width if width else 1"])
def test_constructors_that_compute_with_tensor_values_load(tmp_path: Path, value: str) -> None:
    """The meta device has no values. Torch raises errors of several kinds then."""
    head = "import torch\nfrom torch import nn\n"
    body = f"def factory(n):\n    width = torch.ones(2).sum().long()\n    return nn.Conv2d(3, int({value}), n)\n"
    (tmp_path / "net.py").write_text(head + body)
    with torch.device("meta"):
        model = create(f"{tmp_path}/net.py:factory", 3)
    assert (model.weight.device.type, model.weight.shape) == ("meta", (2, 3, 3, 3))


@pytest.mark.parametrize(
    "code",
    [
        "def factory(**kwargs): return nn.Linear(1, kwargs['num_classes'])",
        "@dataclass\nclass Config:\n    w: int = 1\ndef factory(classes): return nn.Linear(Config().w, classes)",
    ],
)
@pytest.mark.parametrize("name", ["net", "json", "torch"])
def test_factories_of_engineers_are_called(tmp_path: Path, code: str, name: str) -> None:
    head = "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom torch import nn\n"
    (tmp_path / f"{name}.py").write_text(head + code)
    assert create(f"{tmp_path}/{name}.py:factory", 7).weight.shape == (7, 1)
    assert sys.modules["torch"] is torch


def test_timm_names() -> None:
    pytest.importorskip("timm")
    assert create("timm:resnet10t", 4).get_classifier().out_features == 4
    with pytest.raises(UsageError, match="timm has no model"):
        create("timm:resnet10x", 4)


def test_the_meta_device_holds_every_family() -> None:
    with torch.device("meta"):
        for arch in ("regnet_x_400mf", "resnet18", "convnext_tiny", "googlenet"):
            assert next(create(arch, 4).parameters()).device.type == "meta"


def test_fit_keeps_a_shared_tensor_one() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    resize_tensors(model, {"0.weight": (3, 4)})
    assert model[1].weight is model[0].weight
    assert model[0].out_features == model[1].out_features == 3


def test_fit_refuses_another_number_of_dimensions() -> None:
    with pytest.raises(CheckpointError, match="pass the right --arch"):
        resize_tensors(nn.Linear(4, 4), {"weight": (4,)})

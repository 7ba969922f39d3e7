from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from cfp_cli.graph import ChannelGraph, channel_sets
from cfp_cli.graph.random_selection import random_selection
from cfp_cli.models.registry import create
from cfp_cli.pruning.rebuild import rebuild
from cfp_cli.pruning.verify import verify


def _network(arch: str) -> nn.Module:
    """Seeded weights, norm statistics away from their neutral start, and layer scales that hide nothing."""
    torch.manual_seed(0)
    model = create(arch, 6).eval()
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if "running_var" in name:
                tensor.uniform_(0.5, 1.5)
            elif "running_mean" in name or name.endswith("bias"):
                tensor.normal_(0, 0.1)
            elif "layer_scale" in name or "gamma" in name:
                tensor.uniform_(0.1, 1)
    return model


def _side(arch: str) -> int:
    # The group norms of FCOS need maps of more than one pixel where a group keeps one channel.
    return 96 if "inception" in arch else 256 if "fcos" in arch else 64


def _fuzz(arch: str) -> ChannelGraph:
    model = _network(arch)
    x = torch.rand(2, 3, _side(arch), _side(arch))
    graph = channel_sets(model, x[:1])
    for seed, fraction in enumerate((0.6, 0.15)):
        kept, stuck = random_selection(graph, fraction, np.random.default_rng(seed))
        assert not stuck
        rebuilt = rebuild(model, kept)
        verify(model, rebuilt, kept, x)
        assert sum(p.numel() for p in rebuilt.parameters()) == kept.parameters
    return graph


def _frozen(graph: ChannelGraph) -> set[str]:
    return {group.name for group in graph.sets if group.frozen and group.frozen != ("logits",)}


@pytest.mark.parametrize(
    "arch", ["vgg16_bn_gap", "resnet18", "mobilenet_v2", "dddn", "repvgg_a0", "shufflenet_v2_x0_5"]
)
def test_any_choice_of_channels_rebuilds_right(arch: str) -> None:
    assert not _frozen(_fuzz(arch))


@pytest.mark.slow
@pytest.mark.parametrize(
    "arch",
    [
        # With those above, one of every torchvision family; benchmarks/coverage.py goes through all of them.
        "alexnet",
        "densenet121",
        "inception_v3",
        "mnasnet0_5",
        "mobilenet_v3_small",
        "efficientnet_b0",
        "efficientnet_v2_s",
        "resnext50_32x4d",
        "regnet_x_400mf",
        "squeezenet1_1",
        "wide_resnet50_2",
        "convnext_tiny",
        "regnet_y_400mf",
        "googlenet",
        "timm:resnest14d",
        "timm:ghostnet_050",
    ],
)
def test_any_choice_of_channels_rebuilds_right_in_larger_networks(arch: str) -> None:
    if arch.startswith("timm:"):
        pytest.importorskip("timm")
    assert not _frozen(_fuzz(arch))


def test_heads_hidden_channels_and_embedding_of_a_transformer_are_pruned() -> None:
    pytest.importorskip("timm")
    torch.manual_seed(0)
    model = create("timm:vit_tiny_patch16_224", 6, img_size=32, depth=2).eval()
    x = torch.rand(2, 3, 32, 32)
    graph = channel_sets(model, x[:1])
    assert {group.name: group.size for group in graph.prunable} == {
        "patch_embed.proj": 192,
        **{f"blocks.{block}.{name}": size for block in (0, 1) for name, size in (("attn.qkv", 3), ("mlp.fc1", 768))},
    }
    kept, _ = random_selection(graph, 0.3, np.random.default_rng(0))
    verify(model, rebuild(model, kept), kept, x)


def test_set_counts_and_couplings_of_known_networks() -> None:
    graph = channel_sets(create("resnet50", 6).eval(), torch.rand(1, 3, 64, 64))
    # A stem, a stream for each of 4 stages, 2 inner sets for each of 16 blocks, the logits.
    assert len(graph.sets) == 1 + 4 + 2 * 16 + 1
    stream = next(group for group in graph.sets if group.name == "layer3.0.conv3")
    assert set(stream.producers) == {"layer3.0.downsample.0", *(f"layer3.{block}.conv3" for block in range(6))}
    assert stream.size == 1024
    mobile = channel_sets(create("mobilenet_v2", 6).eval(), torch.rand(1, 3, 64, 64))
    chains = [len(group.producers) for group in mobile.sets if group.name.endswith(("conv.1", "conv.2"))]
    # Projections along the residual chains {1}, {2, 3}, {4, 5, 6}, {7..10}, {11, 12, 13}, {14, 15, 16}, {17}.
    assert chains == [1, 2, 3, 4, 3, 3, 1]


@pytest.mark.parametrize(
    "arch", ["resnet18", "mobilenet_v2", "vgg16_bn_gap", pytest.param("densenet121", marks=pytest.mark.slow)]
)
def test_couplings_equal_those_of_torch_pruning_where_it_is_right(arch: str) -> None:
    """Every channel of some sets, position by position, against an independent dependency graph."""
    tp = pytest.importorskip("torch_pruning")
    model = _network(arch)
    x = torch.rand(1, 3, 64, 64)
    graph = channel_sets(model, x)
    dependencies = tp.DependencyGraph().build_dependency(model, x)
    names = {module: name for name, module in model.named_modules()}
    offsets = graph.offsets
    rng = np.random.default_rng(0)
    for index in rng.permutation([i for i, group in enumerate(graph.sets) if not group.frozen])[:12]:
        producer = model.get_submodule(graph.sets[index].name)
        unit = int(rng.integers(graph.sets[index].size))
        prune = tp.prune_conv_out_channels if isinstance(producer, nn.Conv2d) else tp.prune_linear_out_channels
        theirs = set()
        for dependency, positions in dependencies.get_pruning_group(producer, prune, [unit]):
            module = dependency.target.module
            if module in names:
                out = dependencies.is_out_channel_pruning_fn(dependency.handler)
                theirs |= {(names[module], out or _per_channel(module), position) for position in positions}
        ours = set()
        for dimension in graph.dimensions:
            module, _, tensor = dimension.name.rpartition(".")
            if tensor == "weight":
                found = np.flatnonzero(dimension.units == offsets[index] + unit)
                ours |= {(module, dimension.dim == 0, int(position)) for position in found}
        assert ours == theirs


def _per_channel(module: nn.Module) -> bool:
    return isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) or getattr(module, "groups", 1) > 1


RELOAD = """
import sys, torch
from cfp_cli.models.registry import create
from cfp_cli.models.resize import resize_tensors
saved = torch.load(sys.argv[1], weights_only=True)
model = create(saved["arch"], 6).eval()
resize_tensors(model, {name: tuple(value.shape) for name, value in saved["state"].items()})
model.load_state_dict(saved["state"])
with torch.no_grad():
    # The same tensors; where they lie in memory may change the last bits of a sum.
    torch.testing.assert_close(model(saved["x"]), saved["logits"], rtol=1e-5, atol=1e-6)
"""


@pytest.mark.parametrize("arch", ["mobilenet_v3_small"])
def test_a_pruned_network_is_rebuilt_from_its_shapes_in_a_new_process(arch: str, tmp_path) -> None:
    model = _network(arch)
    x = torch.rand(2, 3, 64, 64)
    graph = channel_sets(model, x[:1])
    kept, _ = random_selection(graph, 0.4, np.random.default_rng(0))
    rebuilt = rebuild(model, kept)
    path = tmp_path / "pruned.pt"
    with torch.no_grad():
        torch.save({"arch": arch, "state": rebuilt.state_dict(), "x": x, "logits": rebuilt(x)}, path)
    done = subprocess.run([sys.executable, "-c", RELOAD, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "arch",
    [
        "lraspp_mobilenet_v3_large",
        "deeplabv3_resnet50",
        "ssdlite320_mobilenet_v3_large",
        "fcos_resnet50_fpn",
        "fasterrcnn_resnet50_fpn",
    ],
)
def test_segmentation_networks_and_detectors_rebuild_right_as_they_are(arch: str) -> None:
    graph = _fuzz(arch)
    kept = sum(each.size for each in graph.sets if each.frozen)
    assert kept < 0.05 * int(graph.offsets[-1])

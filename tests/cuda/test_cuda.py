"""A GPU computes the same results as a CPU. These tests are skipped without a GPU.

With a GPU the tests of the command line use it too, because `--device auto` selects it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cfp_cli.checkpoints.spec import ModelSpec, describe
from cfp_cli.comparing.grid import compare
from cfp_cli.comparing.methods import chosen
from cfp_cli.data.dataset import open_dataset
from cfp_cli.data.synthetic import generate
from cfp_cli.graph import Selection, channel_sets
from cfp_cli.models.registry import create
from cfp_cli.pruning.options import PruneOptions
from cfp_cli.pruning.plan import Plan
from cfp_cli.pruning.planning import make_plan
from cfp_cli.pruning.pruner import apply
from cfp_cli.pruning.refit import FULL
from cfp_cli.scoring.score import score
from cfp_cli.training.options import TrainOptions

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

DEVICES = ("cpu", "cuda")
ARCHS = ("vgg16_bn_gap", "torchvision:resnet18", "torchvision:mobilenet_v2", "repvgg_a0")
Batches = list[tuple[Tensor, Tensor]]


@pytest.fixture(scope="module")
def batches() -> Batches:
    images = torch.rand(4, 8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return [(batch, torch.zeros(8, dtype=torch.int64)) for batch in images]


def network(arch: str, device: str) -> nn.Module:
    torch.manual_seed(0)
    return create(arch, 4).eval().to(device)


def made_on(device: str, batches: Batches) -> Plan:
    model = network("torchvision:resnet18", device)
    graph = channel_sets(model, batches[0][0][:1].to(device))
    scores = score(model, batches, graph=graph)
    return make_plan(model, scores, PruneOptions(ratio=0.8, allocation="redundancy"), graph=graph)


@pytest.mark.parametrize("arch", ARCHS)
def test_the_channel_sets_are_the_same(arch: str, batches: Batches) -> None:
    here, there = (channel_sets(network(arch, device), batches[0][0][:1].to(device)).sets for device in DEVICES)
    assert there == here
    assert any(not group.frozen for group in there)


@pytest.mark.parametrize("arch", ARCHS)
def test_the_scores_are_the_same(arch: str, batches: Batches) -> None:
    here, there = (score(network(arch, device), batches, richness="nuclear") for device in DEVICES)
    for mine, other in zip(here.sets, there.sets, strict=True):
        for figure in ("norm", "distance", "richness"):
            expected = getattr(mine, figure)
            np.testing.assert_allclose(getattr(other, figure), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_the_plan_is_nearly_the_same(batches: Batches) -> None:
    here, there = (made_on(device, batches).kept for device in DEVICES)
    # Where two channels are worth the same, rounding decides.
    same = sum(int(np.isin(there[name], channels).sum()) for name, channels in here.items())
    assert same >= 0.95 * sum(len(channels) for channels in here.values())


def test_a_restored_network_is_the_same(batches: Batches) -> None:
    made = made_on("cpu", batches)
    logits = []
    for device in DEVICES:
        model, example = network("torchvision:resnet18", device), batches[0][0].to(device)
        graph = channel_sets(model, example[:1])
        pruned, _ = apply(model, made, graph=graph, example=example)
        FULL.apply(pruned, model, Selection(graph, made.kept), batches)
        assert {value.device.type for value in pruned.state_dict().values()} == {device}
        with torch.inference_mode():
            logits.append(pruned(example).cpu())
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-3, atol=1e-3 * float(logits[0].abs().max()))


@pytest.mark.parametrize("amp", ["off", "auto"])
def test_a_comparison_with_steps_recovers_on_the_device(amp: str, tmp_path: Path) -> None:
    dataset = open_dataset(generate(tmp_path / "data", per_class=8, test_per_class=3, size=64))
    teacher = network("torchvision:resnet18", "cuda")
    describe(teacher, ModelSpec("torchvision:resnet18", dataset.classes, input_size=(32, 32)))
    teacher.fc = nn.Linear(512, len(dataset.classes), device="cuda")
    options = TrainOptions.preset("paper", epochs=4, batch_size=16, lr=1e-3, views=1, amp=amp)
    methods = chosen(["cfp", "cfp-rounds", "taylor", "scratch"])
    rows = compare([teacher], dataset, methods, [0.8], [0], options, folder=tmp_path, images=18, device="cuda")
    assert [abs(1 - row.params / sum(p.numel() for p in teacher.parameters()) - 0.8) <= 0.005 for row in rows] == [
        True
    ] * len(methods)
    assert all(0 <= row.test_accuracy <= 1 for row in rows)

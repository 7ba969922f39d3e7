"""Detectors of torchvision are scored and pruned as they are, and then take images and return boxes as before."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.ssd import SSD, SSDHead
from torchvision.ops import FeaturePyramidNetwork

import cfp_cli as cfp
from cfp_cli.checkpoints.load import load
from cfp_cli.checkpoints.save import save
from cfp_cli.checkpoints.spec import ModelSpec
from cfp_cli.graph import channel_sets
from cfp_cli.graph.random_selection import random_selection
from cfp_cli.models.forward_pass import is_detector, run_network
from cfp_cli.models.registry import create
from cfp_cli.pruning.rebuild import rebuild
from cfp_cli.pruning.verify import verify

SIDE = 64
IMAGES = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
BATCHES = [(IMAGES, torch.zeros(3))]


def block(i: int, o: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, 3, 2, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU())


class Pyramid(nn.Module):
    """A small backbone with a feature pyramid."""

    def __init__(self, width: int = 20) -> None:
        super().__init__()
        self.a, self.b, self.c = block(3, 12), block(12, 16), block(16, 24)
        self.fpn, self.out_channels = FeaturePyramidNetwork([16, 24], width), width

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.b(self.a(x))
        return self.fpn({"0": y, "1": self.c(y)})


def anchors() -> AnchorGenerator:
    return AnchorGenerator(((8,), (16,)), ((0.5, 1.0, 2.0),) * 2)


def two_stage(kind: Callable[..., nn.Module], **heads: Any) -> nn.Module:
    return kind(
        Pyramid(),
        None,
        rpn_anchor_generator=anchors(),
        box_head=TwoMLPHead(20 * 49, 32),
        box_predictor=FastRCNNPredictor(32, 3),
        min_size=SIDE,
        max_size=SIDE,
        rpn_post_nms_top_n_test=40,
        **heads,
    )


DETECTORS: dict[str, Callable[[], nn.Module]] = {
    "retinanet": lambda: RetinaNet(Pyramid(), 3, SIDE, SIDE, anchor_generator=anchors(), score_thresh=0.0),
    "fcos": lambda: FCOS(
        # The head has group norms of 32 groups.
        Pyramid(64),
        3,
        SIDE,
        SIDE,
        anchor_generator=AnchorGenerator(((8,), (16,)), ((1.0,),) * 2),
        score_thresh=0.0,
    ),
    "ssd": lambda: SSD(Pyramid(), DefaultBoxGenerator([[2], [2]]), (SIDE, SIDE), 3, head=SSDHead([20] * 2, [4] * 2, 3)),
    "faster r-cnn": lambda: two_stage(FasterRCNN),
    "mask r-cnn": lambda: two_stage(
        MaskRCNN, mask_head=MaskRCNNHeads(20, (12, 12), 1), mask_predictor=MaskRCNNPredictor(12, 12, 3)
    ),
}


def detector(kind: str) -> nn.Module:
    torch.manual_seed(0)
    model = DETECTORS[kind]().eval()
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if "running_var" in name:
                tensor.uniform_(0.5, 1.5)
            elif "running_mean" in name:
                tensor.normal_(0, 0.1)
            elif tensor.dim() > 1:
                # The heads are initialised so near zero that all boxes would be alike.
                tensor.normal_(0, 1.0 / tensor[0].numel() ** 0.5)
    return model


# The head of FCOS has group norms, and zeroed channels would take part in them.
@pytest.mark.parametrize("kind", [kind for kind in DETECTORS if kind != "fcos"])
def test_a_rebuilt_detector_returns_the_boxes_of_its_channel_zeroed_original(kind: str) -> None:
    model = detector(kind)
    assert is_detector(model)
    graph = channel_sets(model, IMAGES[:1])
    assert {each.name.split(".")[0] for each in graph.prunable} >= {"backbone"}
    selection, stuck = random_selection(graph, 0.7, np.random.default_rng(0))
    assert not stuck
    rebuilt = rebuild(model, selection)
    assert verify(model, rebuilt, selection, IMAGES) < 1e-4
    zeroed = copy.deepcopy(model)
    tensors = dict(zeroed.named_parameters())
    for (name, dim), groups in selection.slices.items():
        if dim == 1 and name in tensors:
            (kept,) = groups
            dropped = np.setdiff1d(np.arange(tensors[name].shape[1]), kept)
            tensors[name].data[:, dropped] = 0
        # The weights of a transposed convolution have their inputs first.
        if dim == 0 and "conv5_mask.weight" in name:
            tensors[name].data[np.setdiff1d(np.arange(len(tensors[name])), groups[0])] = 0
    with torch.no_grad():
        expected, given = zeroed(list(IMAGES)), rebuilt(list(IMAGES))
    assert sum(len(each["boxes"]) for each in expected) > 0
    for one, other in zip(given, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            # Boxes with nearly equal scores may change places.
            ordered = [each[name].float().sort(0).values for each in (one, other)]
            torch.testing.assert_close(*ordered, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["fcos", "faster r-cnn"])
def test_a_detector_is_scored_pruned_and_trained_on(kind: str) -> None:
    model = detector(kind)
    pruned, plan = cfp.prune(model, cfp.score(model, BATCHES), 0.5, loader=BATCHES)
    assert type(pruned) is type(model)
    assert plan.achieved == pytest.approx(0.5, abs=0.05)
    with torch.no_grad():
        assert set(pruned(list(IMAGES))[0]) == {"boxes", "labels", "scores"}
    targets = [{"boxes": torch.tensor([[4.0, 4.0, 30.0, 40.0]]), "labels": torch.tensor([1])} for _ in IMAGES]
    losses = pruned.train()(list(IMAGES), targets)
    sum(losses.values()).backward()
    assert all(bool(torch.isfinite(each)) for each in losses.values())
    assert any(each.grad is not None and bool(each.grad.abs().max() > 0) for each in pruned.parameters())


def test_a_checkpoint_holds_a_pruned_detector(built_in: Callable[[str, str, str], str], tmp_path: Path) -> None:
    source = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom test_detectors import DETECTORS\n"
    arch = built_in("small_retinanet", source + "def build(num_classes): return DETECTORS['retinanet']()", "build")
    model = create(arch, 0).eval()
    pruned, plan = cfp.prune(model, cfp.score(model, BATCHES), 0.5)
    save(tmp_path / "d.pt", pruned, ModelSpec(arch, (), input_size=(SIDE, SIDE), plan=plan.to_json()))
    loaded = load(tmp_path / "d.pt")
    given, expected = run_network(loaded, IMAGES), run_network(pruned, IMAGES)
    assert all(torch.equal(given[name], expected[name]) for name in expected)


def test_other_networks_with_a_backbone_run_as_they_are() -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.transform, self.head = nn.Conv2d(3, 4, 1), nn.Identity(), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.transform(self.backbone(x)))

    model = Other()
    assert not is_detector(model)
    assert torch.equal(run_network(model, IMAGES), model(IMAGES))

"""The metrics of segmentation networks equal those of torchmetrics, at the size of the masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

import cfp_cli.measuring.segmentation as module
from cfp_cli.foundation.errors import DataError, NotFiniteError, TrainingError
from cfp_cli.measuring.segmentation import evaluate_segmentation, largest_score

NAMES = ("steel", "scratch", "hole", "never")


class Net(nn.Module):
    """Returns its input through a function."""

    def __init__(self, output: Callable[[Tensor], Any] = lambda x: x) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor) -> Any:
        return self.output(x)


def batches(size: tuple[int, int], seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Two batches of maps with 4 classes, the last of which never occurs, and masks with some pixels of no class."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(2):
        maps = torch.randn(3, 4, 5, 7, generator=generator)
        maps[:, 3] = -9
        masks = torch.randint(3, (3, *size), generator=generator)
        masks[torch.rand(masks.shape, generator=generator) < 0.1] = 255
        found.append((maps, masks))
    return found


@pytest.mark.parametrize("size", [(5, 7), (11, 9), (3, 3)])
def test_figures_equal_those_of_torchmetrics(size: tuple[int, int]) -> None:
    classification = pytest.importorskip("torchmetrics.functional.classification")
    loader = batches(size)
    metrics = evaluate_segmentation(Net(), loader, NAMES)
    scores = torch.cat([interpolate(maps, size=size, mode="bilinear") for maps, _ in loader])
    masks = torch.cat([masks for _, masks in loader])
    options: dict[str, Any] = {"num_classes": 4, "ignore_index": 255}
    jaccard = classification.multiclass_jaccard_index
    assert metrics.mean_iou == pytest.approx(float(jaccard(scores, masks, average="macro", **options)))
    per_class = jaccard(scores, masks, average="none", **options).tolist()
    assert [each.iou for each in metrics.per_class.values()] == pytest.approx(per_class)
    accuracy = classification.multiclass_accuracy(scores, masks, average="micro", **options)
    assert metrics.pixel_accuracy == pytest.approx(float(accuracy))
    recall = classification.multiclass_recall(scores, masks, average="none", **options).tolist()
    assert [each.recall for each in metrics.per_class.values()] == pytest.approx(recall)
    confusion = classification.multiclass_confusion_matrix(scores, masks, **options)
    assert metrics.confusion == tuple(map(tuple, confusion.tolist()))
    assert (metrics.images, metrics.pixels) == (6, int((masks != 255).sum()))
    assert list(metrics.per_class) == list(NAMES)
    assert [each.present for each in metrics.per_class.values()] == [True, True, True, False]


def test_masks_may_differ_in_size() -> None:
    first, second = batches((5, 7)), batches((8, 8))
    mixed = [(maps, [one[0], two[1], one[2]]) for (maps, one), (_, two) in zip(first, second, strict=True)]
    together = evaluate_segmentation(Net(), mixed, NAMES)
    apart = [
        evaluate_segmentation(Net(), [(maps[i : i + 1], [masks[i]])], NAMES) for maps, masks in mixed for i in range(3)
    ]
    rows = torch.stack([torch.tensor(each.confusion) for each in apart]).sum(0)
    assert torch.equal(torch.tensor(together.confusion), rows)


def test_many_classes_are_resized_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.randn(11, 6, 6, generator=torch.Generator().manual_seed(0))
    whole = largest_score(scores, (9, 13))
    for limit in (1, 3 * 9 * 13, 10 * 9 * 13):
        monkeypatch.setattr(module, "_SCORES_AT_ONCE", limit)
        assert torch.equal(largest_score(scores, (9, 13)), whole)


def test_the_first_of_several_outputs_is_taken_and_the_mode_is_restored() -> None:
    net = Net(lambda x: {"out": x, "aux": x[:, :2], "mask": x.argmax(1)}).train()
    found = evaluate_segmentation(net, batches((5, 7)), NAMES)
    assert found == evaluate_segmentation(Net(), batches((5, 7)), NAMES)
    assert net.training


def test_classes_without_names_are_their_indices() -> None:
    assert list(evaluate_segmentation(Net(), batches((5, 7)), ()).per_class) == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("output", "names", "error", "message"),
    [
        (lambda x: x.mean((2, 3)), NAMES, TrainingError, "no map of class scores"),
        (lambda _: None, NAMES, TrainingError, "no map of class scores"),
        (lambda x: x[:, :1], NAMES, TrainingError, "one map, for a sigmoid"),
        (lambda x: x, NAMES[:3], TrainingError, "4 maps but has 3 class names"),
        (lambda x: x / 0, NAMES, NotFiniteError, "NaN or infinite"),
        (lambda x: x[:, :2], NAMES[:2], DataError, "the class index 2, but the network has the classes 0 to 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    output: Callable[[Tensor], Any], names: tuple[str, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        evaluate_segmentation(Net(output), batches((5, 7)), names)


def test_masks_without_a_pixel_of_a_class_are_refused() -> None:
    empty = [(maps, torch.full_like(masks, 255)) for maps, masks in batches((5, 7))]
    with pytest.raises(DataError, match="no pixel of a class"):
        evaluate_segmentation(Net(), empty, NAMES)

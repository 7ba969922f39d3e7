"""Metrics of a segmentation network: pixel accuracy, and the intersection over union of each class."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from cfp_cli.data.masks import IGNORED, require_classes
from cfp_cli.execution.evaluation_mode import evaluating
from cfp_cli.execution.forward import forward_errors
from cfp_cli.execution.outputs import tensors_of
from cfp_cli.foundation.errors import DataError, NotFiniteError, TrainingError
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.measuring.metrics import CONFUSION_LIMIT
from cfp_cli.models.forward_pass import is_detector, run_network

# Largest number of class scores that are resized at once.
_SCORES_AT_ONCE = 1 << 26


class MaskLoader(Protocol):
    """Batches of preprocessed images and their masks; can be iterated more than once."""

    def __iter__(self) -> Any:
        """Iterate over (images float32 [n, C, H, W], n masks int64 [height, width])."""
        ...

    def __len__(self) -> int:
        """Return the number of batches."""
        ...


@dataclass(frozen=True)
class ClassPixels:
    """The metrics of one class. A ratio with denominator 0 is 0.

    Attributes:
        iou: intersection over union: pixels that are and were predicted as this class, over those that are or were.
        recall: fraction of the pixels of the class that were predicted as this class.
        precision: fraction of the pixels predicted as this class that are of it.
        pixels: number of pixels of the class.
        predicted: number of pixels that were predicted as this class.
    """

    iou: float
    recall: float
    precision: float
    pixels: int
    predicted: int

    @property
    def present(self) -> bool:
        """Whether any pixel is, or was predicted as, this class. No mean contains the IoU of other classes."""
        return self.pixels + self.predicted > 0


@dataclass(frozen=True)
class SegmentationMetrics:
    """The metrics of the pixels of one split, as fractions from 0 to 1.

    Attributes:
        pixel_accuracy: fraction of the pixels whose largest score belongs to their class.
        mean_iou: mean IoU over the classes that a pixel is of or was predicted as.
        per_class: the metrics of each class by name, in the order of the maps.
        confusion: pixels by true class (row) and predicted class (column), in the order of the maps. None if there
            are more than 100 classes.
        images: number of images.
        pixels: number of pixels of a class, without those of index 255.
    """

    pixel_accuracy: float
    mean_iou: float
    per_class: dict[str, ClassPixels]
    confusion: tuple[tuple[int, ...], ...] | None
    images: int
    pixels: int

    def to_json(self) -> dict[str, Any]:
        """Return the metrics as plain data."""
        return asdict(self)


def evaluate_segmentation(
    model: nn.Module,
    loader: MaskLoader | Collection[tuple[Tensor, Sequence[Tensor] | Tensor]],
    classes: Sequence[str] | None = None,
    progress: Progress = SILENT,
    device: torch.device | str | None = None,
) -> SegmentationMetrics:
    """Evaluate a segmentation network. Its mode (train or eval) is restored afterwards.

    The class scores are resized to the size of each mask, bilinearly; the largest score decides. Masks may differ in
    size. Pixels with index 255 are not counted.

    Args:
        model: its first output is a map of class scores float32 [n, classes, h, w].
        loader: (images float32 [n, C, H, W] in the network's own preprocessing, their n masks int64 [height, width]).
        classes: class names in the order of the maps; those of the network's spec where None. Without names, the
            indices are the names.
        progress: reports progress.
        device: device to compute on; the device of the network where None.

    Raises:
        DataError: there is no pixel to evaluate, or a mask contains an index that is no class.
        TrainingError: the network returns no map of class scores, or not one for each class name.
        NotFiniteError: a score is NaN or infinite.
    """
    if classes is None:
        from cfp_cli.checkpoints.spec import spec_of

        classes = spec_of(model).classes
    if device is None:
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    table, count = torch.zeros(0, 0, dtype=torch.int64), 0
    with evaluating(model), torch.inference_mode():
        for images, masks in progress.track(loader, "evaluating", total=len(loader)):
            with forward_errors(images.shape):
                output = run_network(model, images.to(device))
            maps = class_maps(output, model, len(classes))
            if count == 0:
                table = torch.zeros(maps.shape[1], maps.shape[1], dtype=torch.int64)
            for scores, mask in zip(maps, masks, strict=True):
                table += confusion_of(
                    largest_score(scores, (mask.shape[0], mask.shape[1])).cpu(), mask.cpu(), len(table)
                )
                count += 1
    if int(table.sum()) == 0:
        raise DataError("there is no pixel of a class to evaluate; check the images of the split and their masks")
    return metrics_of(table, classes or tuple(map(str, range(len(table)))), count)


def class_maps(output: Any, model: nn.Module, classes: int) -> Tensor:
    """Return the first floating-point tensor of a network's output, a map of class scores [n, C, h, w].

    Args:
        output: what the network returned.
        model: the network.
        classes: number of class names, which C must equal; 0 accepts any C > 1.

    Raises:
        TrainingError: the tensor is no such map.
        NotFiniteError: a score is NaN or infinite.
    """
    maps = next(iter(tensors_of(output)), torch.empty(0))
    if maps.dim() != 4 or maps.is_complex() or is_detector(model):
        raise TrainingError("the first output of the network is no map of class scores [images, classes, H, W]")
    if maps.shape[1] < 2:
        raise TrainingError("the network returns one map, for a sigmoid; evaluation needs a map for each class")
    if classes not in (0, maps.shape[1]):
        raise TrainingError(
            f"the network returns {maps.shape[1]} maps but has {classes} class names; pass a name for each map, the "
            "background included (--classes)"
        )
    if not bool(torch.isfinite(maps).all()):
        raise NotFiniteError("the network returns NaN or infinite scores; use an earlier checkpoint")
    return maps


def largest_score(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the class with the largest score at each pixel, int64 [height, width].

    Args:
        scores: class scores [C, h, w].
        size: height and width; scores of another size are resized bilinearly, a few classes at a time.
    """
    if tuple(scores.shape[1:]) == size:
        return scores.argmax(0)
    step = max(1, _SCORES_AT_ONCE // (size[0] * size[1]))
    best, largest = torch.zeros(size, dtype=torch.int64, device=scores.device), None
    for start in range(0, len(scores), step):
        resized = interpolate(scores[None, start : start + step].float(), size=size, mode="bilinear")[0]
        values, indices = resized.max(0)
        if largest is None:
            best, largest = indices, values
        else:
            larger = values > largest
            best, largest = torch.where(larger, indices + start, best), torch.where(larger, values, largest)
    return best


def confusion_of(predicted: Tensor, mask: Tensor, classes: int) -> Tensor:
    """Return the number of pixels by true and predicted class, int64 [classes, classes]; 255 is not counted.

    Raises:
        DataError: the mask contains an index that is no class.
    """
    require_classes(mask, classes)
    counted = mask != IGNORED
    actual = mask[counted].long()
    return torch.bincount(actual * classes + predicted[counted], minlength=classes**2).view(classes, classes)


def metrics_of(confusion: Tensor, classes: Sequence[str], images: int) -> SegmentationMetrics:
    """Return the metrics of a confusion matrix int64 [C, C], pixels by true and predicted class."""
    hits, actual, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    union = actual + predicted - hits
    iou, recall, precision = (hits.double() / total.clamp_min(1) for total in (union, actual, predicted))
    figures = (each.tolist() for each in (iou, recall, precision, actual, predicted))
    return SegmentationMetrics(
        pixel_accuracy=float(hits.sum().double() / confusion.sum()),
        mean_iou=float(iou[union > 0].mean()),
        per_class={name: ClassPixels(*each) for name, each in zip(classes, zip(*figures, strict=True), strict=True)},
        confusion=tuple(map(tuple, confusion.tolist())) if len(confusion) <= CONFUSION_LIMIT else None,
        images=images,
        pixels=int(confusion.sum()),
    )

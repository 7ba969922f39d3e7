"""Metrics of a classifier: accuracy, macro averages, the figures of each class and the confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cfp_cli.execution.evaluation_mode import evaluating
from cfp_cli.foundation.errors import DataError, TrainingError
from cfp_cli.foundation.progress import SILENT, Progress


class Loader(Protocol):
    """Batches of preprocessed images and their labels; can be iterated more than once."""

    def __iter__(self) -> Any:
        """Iterate over (images float32 [n, 3, H, W], labels int64 [n])."""
        ...

    def __len__(self) -> int:
        """Return the number of batches."""
        ...


@dataclass(frozen=True)
class ClassMetrics:
    """The metrics of one class. A ratio with denominator 0 is 0.

    Attributes:
        recall: fraction of the images of the class that were predicted as this class.
        precision: fraction of the predictions of this class that were correct.
        f1: harmonic mean of recall and precision.
        images: number of images of the class.
    """

    recall: float
    precision: float
    f1: float
    images: int


@dataclass(frozen=True)
class Metrics:
    """The metrics of one split, as fractions from 0 to 1.

    Attributes:
        accuracy: fraction of images whose largest logit belongs to their label.
        macro_precision: mean precision over the classes that occur as label or prediction.
        macro_recall: mean recall over the same classes.
        macro_f1: mean F1 over the same classes.
        balanced_accuracy: mean recall over the classes that have images.
        per_class: the metrics of each class by name, in the order of the logits.
        confusion: images by true class (row) and predicted class (column).
        images: number of images.
    """

    accuracy: float
    macro_precision: float
    macro_recall: float
    macro_f1: float
    balanced_accuracy: float
    per_class: dict[str, ClassMetrics]
    confusion: tuple[tuple[int, ...], ...]
    images: int

    def standard_error(self, metric: str) -> float:
        """Return the standard error of a metric that comes from the choice of the images.

        The error is binomial. One correct and one wrong image are added, so that a perfect score has an error too. For
        `macro_f1` the error of the mean recall is used, which is close if precision and recall are close.

        Args:
            metric: `accuracy` or `macro_f1`.
        """
        if metric == "accuracy":
            return math.sqrt(_binomial(self.accuracy, self.images))
        classes = [each for each in self.per_class.values() if each.images]
        return math.sqrt(sum(_binomial(each.recall, each.images) for each in classes)) / len(classes)

    def to_json(self) -> dict[str, Any]:
        """Return the metrics as plain data."""
        return asdict(self) | {"confusion": [list(row) for row in self.confusion]}


def _binomial(fraction: float, images: int) -> float:
    """Return the variance of a fraction of images."""
    smooth = (fraction * images + 1) / (images + 2)
    return smooth * (1 - smooth) / images


def evaluate(
    model: nn.Module,
    loader: Loader | Collection[tuple[Tensor, Tensor]],
    classes: Sequence[str] | None = None,
    progress: Progress = SILENT,
    device: torch.device | str | None = None,
) -> Metrics:
    """Evaluate a network. Its mode (train or eval) is restored afterwards.

    Args:
        model: returns logits float32 [n, classes].
        loader: (images float32 [n, 3, H, W] in the network's own preprocessing, labels int64 [n]).
        classes: class names in the order of the logits; those of the network's spec where None.
        progress: reports progress.
        device: device to compute on; the device of the network where None.

    Raises:
        DataError: there are no images, or a label is not one of the classes.
        TrainingError: a logit is NaN or infinite.
    """
    if classes is None:
        from cfp_cli.checkpoints.spec import spec_of

        classes = spec_of(model).classes
    predictions, labels = predict(model, progress.track(loader, "evaluating", total=len(loader)), device)
    return compute_metrics(predictions, labels, classes)


def predict(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device | str | None = None
) -> tuple[Tensor, Tensor]:
    """Return the class with the largest logit of each image, and the labels: two int64 [N] on the CPU.

    Raises:
        TrainingError: a logit is NaN or infinite.
    """
    if device is None:
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    predictions, labels = [torch.empty(0, dtype=torch.int64)], [torch.empty(0, dtype=torch.int64)]
    with evaluating(model), torch.inference_mode():
        for images, batch_labels in batches:
            logits = require_logits(model(images.to(device)))
            if not bool(torch.isfinite(logits).all()):
                raise TrainingError("the network returns NaN or infinite logits; use an earlier checkpoint")
            predictions.append(logits.argmax(1).cpu())
            labels.append(batch_labels.cpu())
    return torch.cat(predictions), torch.cat(labels)


def require_logits(value: Any) -> Tensor:
    """Return the output of a network, which must be one tensor.

    Raises:
        TrainingError: it is something else.
    """
    if not isinstance(value, Tensor):
        raise TrainingError(
            f"the network returns a {type(value).__name__}, not one tensor of logits; wrap it so that its forward "
            "returns only the logits"
        )
    return value


def compute_metrics(predictions: Tensor, labels: Tensor, classes: Sequence[str]) -> Metrics:
    """Compute the metrics of predicted classes int64 [N] and true classes int64 [N].

    Raises:
        DataError: N is 0, or a label is not one of the classes.
    """
    from torchmetrics.functional import classification

    count = len(classes)
    if len(labels) == 0:
        raise DataError("there is no image to evaluate; check the folder of the split")
    if int(labels.min()) < 0 or int(labels.max()) >= count:
        raise DataError(
            f"a label is outside the {count} classes of the network; use a network that was trained on this dataset"
        )
    task: dict[str, Any] = {"num_classes": count, "average": "none"}
    recall, precision, f1 = (
        getattr(classification, f"multiclass_{name}")(predictions, labels, **task).double()
        for name in ("recall", "precision", "f1_score")
    )
    confusion = classification.multiclass_confusion_matrix(predictions, labels, num_classes=count)
    images = confusion.sum(1)
    occurs = images + confusion.sum(0) > 0
    return Metrics(
        accuracy=int(confusion.diagonal().sum()) / len(labels),
        macro_precision=float(precision[occurs].mean()),
        macro_recall=float(recall[occurs].mean()),
        macro_f1=float(f1[occurs].mean()),
        balanced_accuracy=float(recall[images > 0].mean()),
        per_class={
            name: ClassMetrics(float(recall[i]), float(precision[i]), float(f1[i]), int(images[i]))
            for i, name in enumerate(classes)
        },
        confusion=tuple(tuple(int(cell) for cell in row) for row in confusion),
        images=len(labels),
    )

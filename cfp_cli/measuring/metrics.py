"""What a classifier's test says: accuracy, macro averages, the recall of every class and the confusion matrix."""

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
    """Batches of preprocessed images and their labels, as often as they are asked for."""

    def __iter__(self) -> Any:
        """Iterate over (images float32 [n, 3, H, W], labels int64 [n])."""
        ...

    def __len__(self) -> int:
        """Count the batches."""
        ...


@dataclass(frozen=True)
class ClassMetrics:
    """The figures of one class; a ratio without a denominator is 0.

    Attributes:
        recall: share of the class's images that were recognised.
        precision: share of the predictions of this class that were right.
        f1: harmonic mean of the two.
        images: how many images of the class were tested.
    """

    recall: float
    precision: float
    f1: float
    images: int


@dataclass(frozen=True)
class Metrics:
    """The figures of one split; every figure is a fraction from 0 to 1.

    Attributes:
        accuracy: share of images whose largest logit is their label's.
        macro_precision: mean precision over the classes that occur as label or prediction.
        macro_recall: mean recall over the same classes.
        macro_f1: mean F1 over the same classes.
        balanced_accuracy: mean recall over the classes that have images.
        per_class: the figures of each class, by name, in the order of the logits.
        confusion: images by true class (row) and predicted class (column).
        images: how many images were tested.
    """

    accuracy: float
    macro_precision: float
    macro_recall: float
    macro_f1: float
    balanced_accuracy: float
    per_class: dict[str, ClassMetrics]
    confusion: tuple[tuple[int, ...], ...]
    images: int

    def standard_error(self, figure: str) -> float:
        """How far a figure would vary with other images of the same kind.

        Binomial, with one image right and one wrong added so that a perfect score has an error too. Of `macro_f1` that
        of the mean recall is taken, which is close where precision and recall are.

        Args:
            figure: `accuracy` or `macro_f1`.
        """
        if figure == "accuracy":
            return math.sqrt(_binomial(self.accuracy, self.images))
        tested = [each for each in self.per_class.values() if each.images]
        return math.sqrt(sum(_binomial(each.recall, each.images) for each in tested)) / len(tested)

    def to_json(self) -> dict[str, Any]:
        """The metrics as plain data."""
        return asdict(self) | {"confusion": [list(row) for row in self.confusion]}


def _binomial(share: float, images: int) -> float:
    """Variance of a share of images."""
    smooth = (share * images + 1) / (images + 2)
    return smooth * (1 - smooth) / images


def evaluate(
    model: nn.Module,
    loader: Loader | Collection[tuple[Tensor, Tensor]],
    classes: Sequence[str] | None = None,
    progress: Progress = SILENT,
    device: torch.device | str | None = None,
) -> Metrics:
    """Test a network; its mode (train or eval) is the same afterwards as before.

    Args:
        model: gives logits float32 [n, classes].
        loader: (images float32 [n, 3, H, W] in the network's own preprocessing, labels int64 [n]).
        classes: class names in the order of the logits; those of the network's spec where left out.
        progress: told of each batch.
        device: where to compute; where the network is, if left out.

    Raises:
        DataError: there is no image, or a label is not one of the classes.
        TrainingError: a logit is NaN or infinite.
    """
    if classes is None:
        from cfp_cli.checkpoints.checkpoint import spec_of

        classes = spec_of(model).classes
    predictions, labels = predict(model, progress.track(loader, "evaluating", total=len(loader)), device)
    return measure(predictions, labels, classes)


def predict(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device | str | None = None
) -> tuple[Tensor, Tensor]:
    """The class with the largest logit of each image, and the labels: two int64 [N] on the CPU.

    Raises:
        TrainingError: a logit is NaN or infinite.
    """
    if device is None:
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    predictions, labels = [torch.empty(0, dtype=torch.int64)], [torch.empty(0, dtype=torch.int64)]
    with evaluating(model), torch.inference_mode():
        for images, truth in batches:
            logits = require_logits(model(images.to(device)))
            if not bool(torch.isfinite(logits).all()):
                raise TrainingError("the network gives NaN or infinite logits; take an earlier checkpoint")
            predictions.append(logits.argmax(1).cpu())
            labels.append(truth.cpu())
    return torch.cat(predictions), torch.cat(labels)


def require_logits(value: Any) -> Tensor:
    """What a network gave, if that is one tensor.

    Raises:
        TrainingError: it is something else.
    """
    if not isinstance(value, Tensor):
        raise TrainingError(
            f"the network gives a {type(value).__name__}, not one tensor of logits; wrap it so that its forward "
            "returns the logits only"
        )
    return value


def measure(predictions: Tensor, labels: Tensor, classes: Sequence[str]) -> Metrics:
    """The metrics of predicted classes int64 [N] against true ones int64 [N].

    Raises:
        DataError: N is 0, or a label is not one of the classes.
    """
    from torchmetrics.functional import classification

    count = len(classes)
    if len(labels) == 0:
        raise DataError("there is no image to evaluate; check the split's folder")
    if int(labels.min()) < 0 or int(labels.max()) >= count:
        raise DataError(
            f"a label is outside the {count} classes of the network; use a network trained on this data set"
        )
    task: dict[str, Any] = {"num_classes": count, "average": "none"}
    each = [
        getattr(classification, f"multiclass_{name}")(predictions, labels, **task).double()
        for name in ("recall", "precision", "f1_score")
    ]
    confusion = classification.multiclass_confusion_matrix(predictions, labels, num_classes=count)
    tested = confusion.sum(1)
    occurs = tested + confusion.sum(0) > 0
    recall, precision, f1 = each
    return Metrics(
        accuracy=int(confusion.diagonal().sum()) / len(labels),
        macro_precision=float(precision[occurs].mean()),
        macro_recall=float(recall[occurs].mean()),
        macro_f1=float(f1[occurs].mean()),
        balanced_accuracy=float(recall[tested > 0].mean()),
        per_class={
            name: ClassMetrics(float(recall[i]), float(precision[i]), float(f1[i]), int(tested[i]))
            for i, name in enumerate(classes)
        },
        confusion=tuple(tuple(int(cell) for cell in row) for row in confusion),
        images=len(labels),
    )

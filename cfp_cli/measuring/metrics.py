"""Metrics of a classifier: accuracy, macro averages, the figures of each class and the confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from cfp_cli.foundation.errors import DataError
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.measuring.intervals import Estimate, Interval, mean_interval, wilson
from cfp_cli.measuring.predictions import predict

# A network that names one class for this fraction of the images, and of the images of the other classes, has collapsed.
COLLAPSED = 0.95


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


class WorstClass(NamedTuple):
    """The class with the lowest recall: its name, recall, number of images, and the interval of the recall."""

    name: str
    recall: float
    images: int
    interval: Interval


class Collapse(NamedTuple):
    """A network that names one class for (nearly) all images: the class, and the number of images it is named for."""

    name: str
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

    @property
    def worst_class(self) -> WorstClass:
        """The class with the lowest recall; of equal ones the class with most images."""
        classes = {name: each for name, each in self.per_class.items() if each.images}
        name = min(classes, key=lambda each: (classes[each].recall, -classes[each].images))
        return WorstClass(name, classes[name].recall, classes[name].images, self.class_intervals[name]["recall"])

    @cached_property
    def collapse(self) -> Collapse | None:
        """The one class that the network names for (nearly) all images, or None.

        The rule: images of at least two classes, one class that is predicted for at least 95 % of all images, and for
        at least 95 % of the images of the other classes. So a good network on images that are nearly all of one class
        has not collapsed.
        """
        confusion = self._counts
        predicted = confusion.sum(0)
        index = int(predicted.argmax())
        named = int(predicted[index])
        others = self.images - int(confusion[index].sum())
        # Without images of another class, a network that is always right names only one class too.
        if others == 0 or self._classes_with_images < 2:
            return None
        of_others = named - int(confusion[index, index])
        if named < COLLAPSED * self.images or of_others < COLLAPSED * others:
            return None
        return Collapse(list(self.per_class)[index], named)

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """The 95 % confidence intervals of accuracy, macro averages and balanced accuracy, by name.

        Accuracy has Wilson's interval. Those of the means come from the intervals of the classes, see `mean_interval`;
        they allow for the choice of the images of each class, not for the choice of the classes.
        """
        occurs = self._counts.sum(1) + self._counts.sum(0) > 0
        names = [name for name, used in zip(self.per_class, occurs, strict=True) if used]

        def mean(metric: str, of: Sequence[str]) -> Interval:
            estimates = [
                Estimate(getattr(self.per_class[name], metric), self.class_intervals[name][metric]) for name in of
            ]
            return mean_interval(estimates, shared_errors=metric == "f1")

        return {
            "accuracy": wilson(int(self._counts.diagonal().sum()), self.images),
            "macro_precision": mean("precision", names),
            "macro_recall": mean("recall", names),
            "macro_f1": mean("f1", names),
            "balanced_accuracy": mean("recall", [name for name in names if self.per_class[name].images]),
        }

    @cached_property
    def class_intervals(self) -> dict[str, dict[str, Interval]]:
        """The 95 % confidence intervals of recall, precision and F1 of each class.

        F1 is 2J / (1 + J), where J is the fraction of hits among the images that are of the class or predicted as it.
        Its interval is Wilson's interval of J in the same formula.
        """
        counts = self._counts
        intervals = {}
        for name, hits, true, predicted in zip(
            self.per_class,
            counts.diagonal().tolist(),
            counts.sum(1).tolist(),
            counts.sum(0).tolist(),
            strict=True,
        ):
            f1 = Interval(*(2 * limit / (1 + limit) for limit in wilson(hits, true + predicted - hits)))
            intervals[name] = {"recall": wilson(hits, true), "precision": wilson(hits, predicted), "f1": f1}
        return intervals

    @cached_property
    def _counts(self) -> np.ndarray[Any, Any]:
        return np.asarray(self.confusion, np.int64)

    @property
    def _classes_with_images(self) -> int:
        return sum(each.images > 0 for each in self.per_class.values())

    def to_json(self) -> dict[str, Any]:
        """Return the metrics as plain data, with intervals, the worst class and, if it collapsed, the only class."""
        return asdict(self) | {
            "confusion": [list(row) for row in self.confusion],
            "intervals": {name: list(each) for name, each in self.intervals.items()},
            "class_intervals": {
                name: {metric: list(interval) for metric, interval in each.items()}
                for name, each in self.class_intervals.items()
            },
            "worst_class": self.worst_class._asdict() | {"interval": list(self.worst_class.interval)},
            "collapsed": None if self.collapse is None else self.collapse.name,
        }


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
    predictions = predict(model, progress.track(loader, "evaluating", total=len(loader)), device)
    return compute_metrics(predictions.classes, predictions.labels, classes)


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

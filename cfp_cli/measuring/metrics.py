"""Metrics of a classifier: accuracy, macro averages, the figures of each class and the confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cfp_cli.foundation.errors import DataError
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.foundation.typed_json import FieldError, quoted
from cfp_cli.measuring.intervals import Estimate, Interval, mean_interval, wilson
from cfp_cli.measuring.predictions import predict

# A network that names one class for this fraction of the images, and of the images of the other classes, has collapsed.
COLLAPSED = 0.95

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

# A confusion matrix of more classes would fill a file of results with mostly zeros.
CONFUSION_LIMIT = 100


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
    """The metrics of one class. A ratio with denominator 0 is 0, see `defines`.

    Attributes:
        recall: fraction of the images of the class that were predicted as this class.
        precision: fraction of the predictions of this class that were correct.
        f1: harmonic mean of recall and precision.
        images: number of images of the class.
        predicted: number of images that were predicted as this class.
    """

    recall: float
    precision: float
    f1: float
    images: int
    predicted: int

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            FieldError: a ratio is not from 0 to 1, or a count is negative.
        """
        _require_ratios(self, ("recall", "precision", "f1"))
        for name in ("images", "predicted"):
            if getattr(self, name) < 0:
                raise FieldError(f"{name} is {quoted(getattr(self, name))}, not a number of images")

    def defines(self, metric: str) -> bool:
        """Whether there are images that say something about `recall`, `precision` or `f1`.

        A class that was never predicted has no precision. One without images has neither recall nor F1, and no mean
        over the classes contains it.
        """
        return (self.predicted if metric == "precision" else self.images) > 0

    @property
    def hits(self) -> int:
        """The number of images of the class that were predicted as this class."""
        return round(self.recall * self.images)


def _require_ratios(metrics: ClassMetrics | Metrics, names: Sequence[str]) -> None:
    for name in names:
        value = getattr(metrics, name)
        # A mean of ratios may be rounded up.
        if not 0 <= value <= 1 + 1e-9:
            raise FieldError(f"{name} is {quoted(value)}, not from 0 to 1")


class WorstClass(NamedTuple):
    """The class with the lowest recall.

    Attributes:
        name: its name; of several classes with this recall, that of the class with most images.
        recall: its recall.
        images: its number of images.
        interval: the interval of its recall.
        names: all classes with this recall.
    """

    name: str
    recall: float
    images: int
    interval: Interval
    names: tuple[str, ...]

    @property
    def label(self) -> str:
        """Its name, or the number of classes with this recall."""
        return self.name if len(self.names) == 1 else f"{len(self.names)} classes"


class Collapse(NamedTuple):
    """A network that names one class for (nearly) all images: the class, and the number of images it is named for."""

    name: str
    images: int


@dataclass(frozen=True)
class Confusion:
    """A part of a confusion matrix.

    Attributes:
        classes: the classes of the rows and columns.
        rows: images by true class (row) and predicted class (column).
        left_out: number of classes without a row.
    """

    classes: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]
    left_out: int


@dataclass(frozen=True)
class Metrics:
    """The metrics of one split, as fractions from 0 to 1.

    Attributes:
        accuracy: fraction of images whose largest logit belongs to their label.
        macro_precision: mean precision over the classes that have images; 0 for a class that was never predicted.
        macro_recall: mean recall over the classes that have images.
        macro_f1: mean F1 over the classes that have images.
        balanced_accuracy: another name of `macro_recall`.
        per_class: the metrics of each class by name, in the order of the logits.
        confusion: images by true class (row) and predicted class (column).
        images: number of images.
        confusion_classes: the classes of the rows and columns of `confusion`, in the order of the logits: those with
            the most errors, where there are more than `CONFUSION_LIMIT` classes. None: all classes.
    """

    accuracy: float
    macro_precision: float
    macro_recall: float
    macro_f1: float
    balanced_accuracy: float
    per_class: dict[str, ClassMetrics]
    confusion: tuple[tuple[int, ...], ...]
    images: int
    confusion_classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            FieldError: a ratio is not from 0 to 1, or the images of the classes are not those of the split.
        """
        _require_ratios(self, ("accuracy", "macro_precision", "macro_recall", "macro_f1", "balanced_accuracy"))
        total = sum(each.images for each in self.per_class.values())
        if self.images != total:
            raise FieldError(f"images is {quoted(self.images)}, but the classes of per_class have {total} images")

    def most_confused(self, limit: int) -> Confusion:
        """Return the part of the confusion matrix that belongs to the classes with the most errors.

        Args:
            limit: largest number of classes.
        """
        names = tuple(self.per_class) if self.confusion_classes is None else self.confusion_classes
        errors = [each.images + each.predicted - 2 * each.hits for each in map(self.per_class.__getitem__, names)]
        chosen = most_errors(np.array(errors, np.int64), limit)
        rows = tuple(tuple(row) for row in np.array(self.confusion, np.int64)[np.ix_(chosen, chosen)].tolist())
        return Confusion(tuple(names[index] for index in chosen), rows, len(self.per_class) - len(chosen))

    def lowest_recall(self, limit: int) -> dict[str, ClassMetrics]:
        """Return the classes with the lowest recall, in the order of the logits. Classes without images come last.

        Args:
            limit: largest number of classes.
        """
        order = sorted(self.per_class, key=lambda name: (not self.per_class[name].images, self.per_class[name].recall))
        chosen = set(order[:limit])
        return {name: each for name, each in self.per_class.items() if name in chosen}

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
        worst = classes[name]
        names = tuple(each for each in classes if classes[each].recall == worst.recall)
        return WorstClass(name, worst.recall, worst.images, self.class_intervals[name]["recall"], names)

    @cached_property
    def collapse(self) -> Collapse | None:
        """The one class that the network names for (nearly) all images, or None.

        The rule: images of at least two classes, one class that is predicted for at least 95 % of all images, and for
        at least 95 % of the images of the other classes. So a good network on images that are nearly all of one class
        has not collapsed.
        """
        name, each = max(self.per_class.items(), key=lambda item: item[1].predicted)
        named, others = each.predicted, self.images - each.images
        # Without images of another class, a network that is always right names only one class too.
        if others == 0 or self._classes_with_images < 2:
            return None
        of_others = named - each.hits
        if named < COLLAPSED * self.images or of_others < COLLAPSED * others:
            return None
        return Collapse(name, named)

    @property
    def guessing(self) -> float:
        """The balanced accuracy of guessing: 1 / number of classes with images; 1 if there are none."""
        return 1 / max(self._classes_with_images, 1)

    @property
    def only_guesses(self) -> bool:
        """Whether the network is no better than guessing. Images of one class alone say nothing about this."""
        return self._classes_with_images > 1 and self.balanced_accuracy <= self.guessing

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """The 95 % confidence intervals of accuracy, macro averages and balanced accuracy, by name.

        Accuracy has Wilson's interval. Those of the means come from the intervals of the classes, see `mean_interval`;
        they allow for the choice of the images of each class, not for the choice of the classes.
        """
        names = [name for name, each in self.per_class.items() if each.images]

        def mean(metric: str) -> Interval:
            estimates = [
                Estimate(getattr(self.per_class[name], metric), self.class_intervals[name][metric]) for name in names
            ]
            return mean_interval(estimates, shared_errors=metric == "f1")

        return {
            "accuracy": wilson(sum(each.hits for each in self.per_class.values()), self.images),
            "macro_precision": mean("precision"),
            "macro_recall": mean("recall"),
            "macro_f1": mean("f1"),
            "balanced_accuracy": mean("recall"),
        }

    @cached_property
    def class_intervals(self) -> dict[str, dict[str, Interval]]:
        """The 95 % confidence intervals of recall, precision and F1 of each class.

        F1 is 2J / (1 + J), where J is the fraction of hits among the images that are of the class or predicted as it.
        Its interval is Wilson's interval of J in the same formula.
        """
        intervals = {}
        for name, each in self.per_class.items():
            in_both = wilson(each.hits, each.images + each.predicted - each.hits)
            intervals[name] = {
                "recall": wilson(each.hits, each.images),
                "precision": wilson(each.hits, each.predicted),
                "f1": Interval(*(2 * limit / (1 + limit) for limit in in_both)),
            }
        return intervals

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
            "worst_class": {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in self.worst_class._asdict().items()
            },
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

    Time and memory grow with the number of images and of classes, not with the square of the number of classes.

    Raises:
        DataError: N is 0, or a label is not one of the classes.
    """
    count = len(classes)
    if len(labels) == 0:
        raise DataError("there is no image to evaluate; check the folder of the split")
    if int(labels.min()) < 0 or int(labels.max()) >= count:
        raise DataError(
            f"a label is outside the {count} classes of the network; use a network that was trained on this dataset"
        )
    predicted, actual = predictions.numpy(), labels.numpy()
    hits = np.bincount(actual[predicted == actual], minlength=count)
    images, calls = np.bincount(actual, minlength=count), np.bincount(predicted, minlength=count)
    recall, precision, f1 = _ratio(hits, images), _ratio(hits, calls), _ratio(2 * hits, images + calls)
    present = images > 0
    shown = most_errors(images + calls - 2 * hits, CONFUSION_LIMIT)
    figures = zip(recall.tolist(), precision.tolist(), f1.tolist(), images.tolist(), calls.tolist(), strict=True)
    return Metrics(
        accuracy=int(hits.sum()) / len(labels),
        macro_precision=float(precision[present].mean()),
        macro_recall=float(recall[present].mean()),
        macro_f1=float(f1[present].mean()),
        balanced_accuracy=float(recall[present].mean()),
        per_class={name: ClassMetrics(*each) for name, each in zip(classes, figures, strict=True)},
        confusion=_confusion(predicted, actual, shown, count),
        images=len(labels),
        confusion_classes=None if len(shown) == count else tuple(classes[index] for index in shown),
    )


def _ratio(numerators: Int64, denominators: Int64) -> Float64:
    """Divide; the ratio with denominator 0 is 0."""
    return numerators / np.maximum(denominators, 1)


def most_errors(errors: Int64, limit: int) -> Int64:
    """Return the indices of the `limit` classes with the most errors, in ascending order, int64 [<= limit].

    Args:
        errors: number of errors of each class, int64 [K].
        limit: largest number of indices.
    """
    return np.sort(np.argsort(-errors, kind="stable")[:limit])


def _confusion(predicted: Int64, actual: Int64, shown: Int64, count: int) -> tuple[tuple[int, ...], ...]:
    """Count the images of each pair of the classes `shown`."""
    row_of = np.full(count, -1)
    row_of[shown] = np.arange(len(shown))
    rows, columns = row_of[actual], row_of[predicted]
    both = (rows >= 0) & (columns >= 0)
    cells = np.bincount(rows[both] * len(shown) + columns[both], minlength=len(shown) ** 2)
    return tuple(tuple(row) for row in cells.reshape(len(shown), len(shown)).tolist())

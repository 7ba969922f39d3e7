"""A smaller network beside the original: how much it loses on the same images and views of them, and how surely."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from cfp_cli.foundation.typed_json import FieldError
from cfp_cli.measuring.metrics import Float64, Int64, Metrics, compute_metrics

# Entries of the tables from which the macro-F1 without each image is computed.
_ENTRIES = 1 << 20


@dataclass(frozen=True)
class Loss:
    """A loss in points, with its standard error over the images.

    Attributes:
        points: the loss; negative for a gain.
        standard_error: how much it varies from one set of so many images to another.
    """

    points: float
    standard_error: float

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            FieldError: they are not finite, or the standard error is negative.
        """
        if not (math.isfinite(self.points) and 0 <= self.standard_error < math.inf):
            raise FieldError(f"a loss of {self.points} ± {self.standard_error} points is none")

    @property
    def most(self) -> float:
        """The loss plus its standard error."""
        return self.points + self.standard_error


@dataclass(frozen=True)
class Compared:
    """A network beside the original, on the same images, each in one or several views.

    Attributes:
        metrics: metrics of the network on the images as they are.
        views: number of views of each image; the image itself is one of them.
        accuracy, macro_f1: losses over all views. An image counts once: its views are lost together.
        agreement: the share of the views for which the two networks predict different classes.
    """

    metrics: Metrics
    views: int
    accuracy: Loss
    macro_f1: Loss
    agreement: Loss

    def __post_init__(self) -> None:
        """Check the number of views.

        Raises:
            FieldError: there are none.
        """
        if self.views < 1:
            raise FieldError(f"views is {self.views}, not 1 or more")

    @classmethod
    def of(cls, original: Tensor, network: Tensor, labels: Tensor, classes: Sequence[str]) -> Compared:
        """Compare predictions.

        The standard errors of accuracy and agreement are those of a mean over the images; that of macro-F1 is
        estimated by leaving out one image at a time (jackknife; Efron and Stein, The jackknife estimate of variance,
        Annals of Statistics 1981).

        Args:
            original: classes that the original predicts, int64 [V, N]; the first view is the image itself.
            network: classes that the network predicts, int64 [V, N].
            labels: true classes, int64 [V, N].
            classes: class names in the order of the logits.

        Raises:
            DataError: there are no images, or a label is not one of the classes.
        """
        metrics = compute_metrics(network[0], labels[0], classes)
        before, after, truth = (each.numpy() for each in (original, network, labels))
        lost = ((before == truth).astype(float) - (after == truth)).mean(0)
        whole = [compute_metrics(each.flatten(), labels.flatten(), classes).macro_f1 for each in (original, network)]
        rest = _without_each(before, truth, len(classes)) - _without_each(after, truth, len(classes))
        # The deviation of the leave-one-out values times (N - 1) is that of the images.
        f1 = Loss(100 * (whole[0] - whole[1]), max(len(rest) - 1, 1) * _mean_error(rest))
        return cls(metrics, len(labels), _mean(lost), f1, _mean((before != after).mean(0)))


def _mean(values: Float64) -> Loss:
    """The mean of the images [N] in points."""
    return Loss(100 * float(values.mean()), _mean_error(values))


def _mean_error(values: Float64) -> float:
    """The standard error of the mean of values [N] in points; that of one value is not known, and is the largest."""
    return 100 * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 100.0


def _without_each(predictions: Int64, labels: Int64, classes: int) -> Float64:
    """The macro-F1 of predictions [V, N] when all views of one image are left out, for each image, float64 [N].

    The classes are those of all images; one without images and predictions counts as 0, for both networks alike.
    """
    hits = np.bincount(labels[predictions == labels], minlength=classes)
    images = np.bincount(labels.ravel(), minlength=classes)
    total = images + np.bincount(predictions.ravel(), minlength=classes)
    parts = []
    for chunk in np.array_split(np.arange(labels.shape[1]), -(-labels.shape[1] * classes // _ENTRIES)):
        found, truth = predictions[:, chunk], labels[:, chunk]
        rows = np.broadcast_to(np.arange(len(chunk)), truth.shape)
        own_hits, own_total = np.zeros((2, len(chunk), classes), np.int64)
        np.add.at(own_hits, (rows, truth), found == truth)
        np.add.at(own_total, (rows, truth), 1)
        np.add.at(own_total, (rows, found), 1)
        f1 = 2 * (hits - own_hits) / np.maximum(total - own_total, 1)
        parts.append(f1[:, images > 0].mean(1))
    return np.concatenate(parts)

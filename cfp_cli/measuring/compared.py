"""A smaller network beside the original: their predictions of the same images, and of views of these images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from cfp_cli.foundation.typed_json import FieldError
from cfp_cli.measuring.metrics import Metrics, compute_metrics


class Counts(NamedTuple):
    """Images that both networks classify correctly, only the original, only the smaller network, or neither."""

    both: float
    lost: float
    gained: float
    neither: float


@dataclass(frozen=True)
class ComparedViews:
    """A network beside the original, on several views of each image; the image itself is one of them.

    Attributes:
        views: number of views of each image.
        original_macro_f1: macro-F1 of the original over all views.
        macro_f1: macro-F1 of the network over all views.
        both, lost, gained, neither: views that both networks classify correctly, only the original, only the network,
            or neither.
        same: views for which both networks predict the same class.
    """

    views: int
    original_macro_f1: float
    macro_f1: float
    both: int
    lost: int
    gained: int
    neither: int
    same: int

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            FieldError: a number is out of its range.
        """
        counts = (self.both, self.lost, self.gained, self.neither)
        if self.views < 1 or min(*counts, self.same) < 0 or self.same > sum(counts):
            raise FieldError("views, both, lost, gained, neither and same do not fit each other")
        for name in ("original_macro_f1", "macro_f1"):
            if not 0 <= getattr(self, name) <= 1:
                raise FieldError(f"{name} is {getattr(self, name)}, not from 0 to 1")

    @classmethod
    def of(cls, original: Tensor, network: Tensor, labels: Tensor, classes: Sequence[str]) -> ComparedViews:
        """Compare predictions of views.

        Args:
            original: classes that the original predicts, int64 [V, N].
            network: classes that the network predicts, int64 [V, N].
            labels: true classes, int64 [V, N].
            classes: class names in the order of the logits.

        Raises:
            DataError: there are no images, or a label is not one of the classes.
        """
        before, after = (compute_metrics(each.flatten(), labels.flatten(), classes) for each in (original, network))
        counts = _counts(original, network, labels)
        return cls(len(original), before.macro_f1, after.macro_f1, *counts, int((original == network).sum()))


@dataclass(frozen=True)
class Compared:
    """A network beside the original, on the same images.

    Attributes:
        metrics: metrics of the network.
        both, lost, gained, neither: images that both networks classify correctly, only the original, only the
            network, or neither.
        same: images of which both networks predict the same class.
        on_views: the same on several views of each image; None if only the images were compared.
    """

    metrics: Metrics
    both: int
    lost: int
    gained: int
    neither: int
    same: int
    on_views: ComparedViews | None = None

    def __post_init__(self) -> None:
        """Check the counts.

        Raises:
            FieldError: they are negative, or are not those of the images of `metrics`.
        """
        counts = (self.both, self.lost, self.gained, self.neither)
        if min(*counts, self.same) < 0 or sum(counts) != self.metrics.images or self.same > self.metrics.images:
            raise FieldError(f"both, lost, gained, neither and same do not fit {self.metrics.images} images")
        views = self.on_views
        if views is not None:
            total = views.both + views.lost + views.gained + views.neither
            if total != views.views * self.metrics.images:
                raise FieldError(f"on_views does not have {views.views} views of {self.metrics.images} images")

    @classmethod
    def of(
        cls,
        original: Tensor,
        network: Tensor,
        labels: Tensor,
        classes: Sequence[str],
        on_views: ComparedViews | None = None,
    ) -> Compared:
        """Compare predictions.

        Args:
            original: classes that the original predicts, int64 [N].
            network: classes that the network predicts, int64 [N].
            labels: true classes, int64 [N].
            classes: class names in the order of the logits.
            on_views: the comparison of views of the images.

        Raises:
            DataError: N is 0, or a label is not one of the classes.
        """
        metrics = compute_metrics(network, labels, classes)
        counts = _counts(original, network, labels)
        return cls(metrics, *counts, int((original == network).sum()), on_views)

    @property
    def counts(self) -> Counts:
        """The images by what the two networks predict; with several views of an image, the mean over its views."""
        views = self.on_views
        if views is None:
            return Counts(self.both, self.lost, self.gained, self.neither)
        return Counts(*(each / views.views for each in (views.both, views.lost, views.gained, views.neither)))

    @property
    def changed(self) -> float:
        """The images of which the two networks predict different classes; the mean over their views."""
        views = self.on_views
        return self.metrics.images - (self.same if views is None else views.same / views.views)


def _counts(original: Tensor, network: Tensor, labels: Tensor) -> tuple[int, int, int, int]:
    before, after = original == labels, network == labels
    both, lost, gained, neither = (
        int(each.sum()) for each in (before & after, before & ~after, ~before & after, ~before & ~after)
    )
    return both, lost, gained, neither

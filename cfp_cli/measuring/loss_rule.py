"""How much a smaller network loses on the validation images, and the rule by which it passes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from cfp_cli.foundation.errors import TargetError, UsageError
from cfp_cli.measuring.compared import Compared
from cfp_cli.measuring.intervals import largest_loss
from cfp_cli.measuring.metrics import Metrics

LossMetric = Literal["macro_f1", "accuracy", "agreement"]
LOSS_METRICS: tuple[LossMetric, ...] = get_args(LossMetric)
# Networks that may be compared on the same images. The bound of each allows for all of them.
LOOKS = 16


@dataclass(frozen=True)
class Judged:
    """The judgement on a network: `loss` and `bound` in points, and whether it passes."""

    loss: float
    bound: float
    passes: bool


@dataclass(frozen=True)
class LossRule:
    """The rule by which a network passes: a small measured loss, and no evidence that the real loss may be large.

    A network passes if the metric is at most `max_loss` points below the original's on the same images, and if these
    images rule out a loss of accuracy of more than `max_loss` plus `margin` points: with 95 % confidence for all
    `LOOKS` networks together. With the metric `agreement` the original's predictions are the labels.

    Attributes:
        max_loss: largest loss in points.
        margin: how many points the bound may lie above `max_loss`.
        metric: what is compared.
    """

    max_loss: float = 0.5
    margin: float = 5.0
    metric: LossMetric = "macro_f1"

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UsageError: a value is not allowed.
        """
        for option, value in (("--max-loss", self.max_loss), ("--margin", self.margin)):
            if not 0 <= value <= 100:
                raise UsageError(f"{option} is {value:g}; pass points from 0 to 100")
        if self.metric not in LOSS_METRICS:
            raise UsageError(f"metric '{self.metric}' is unknown; pass one of {', '.join(LOSS_METRICS)}")

    def judge(self, original: Metrics, network: Compared) -> Judged:
        """Judge a network.

        Args:
            original: metrics of the original on the same images.
            network: the network beside it.
        """
        images, counts, views = network.metrics.images, network.counts, network.on_views
        if self.metric == "agreement":
            loss = 100 * network.changed / images
            bound = 100 * largest_loss(images - network.changed, network.changed, 0, 0, LOOKS)
        else:
            if self.metric == "accuracy":
                loss = 100 * (counts.lost - counts.gained) / images
            elif views is not None:
                loss = 100 * (views.original_macro_f1 - views.macro_f1)
            else:
                loss = 100 * (original.macro_f1 - network.metrics.macro_f1)
            # An image counts once, however many views it has: errors on its views occur together.
            bound = 100 * largest_loss(*counts, LOOKS)
        # Means of ratios carry rounding errors.
        return Judged(loss, bound, loss <= self.max_loss + 1e-9 and bound <= self.max_loss + self.margin)

    def require_images(self, original: Metrics) -> None:
        """Check that enough images were compared for a network to pass at all.

        Args:
            original: metrics of the original.

        Raises:
            TargetError: not even a network with the same predictions would pass.
        """
        right = round(original.accuracy * original.images)
        wrong = original.images - right
        same = (original.images, 0, 0, 0) if self.metric == "agreement" else (right, 0, 0, wrong)
        bound = 100 * largest_loss(*same, LOOKS)
        if bound > self.max_loss + self.margin:
            raise TargetError(
                f"{original.images} validation images are too few: even a network with the same predictions may lose "
                f"{bound:.1f} points, more than {self.max_loss + self.margin:g}; add images, or pass "
                f"--margin {math.ceil(10 * (bound - self.max_loss)) / 10:g}"
            )

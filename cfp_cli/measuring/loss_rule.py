"""How much a smaller network loses on the validation images, and the rule by which it passes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from cfp_cli.foundation.errors import UsageError
from cfp_cli.measuring.compared import Compared
from cfp_cli.measuring.intervals import largest_loss
from cfp_cli.measuring.metrics import Metrics

LossMetric = Literal["macro_f1", "accuracy", "agreement"]
LOSS_METRICS: tuple[LossMetric, ...] = get_args(LossMetric)
METRIC_NAMES: dict[LossMetric, str] = {
    "macro_f1": "macro-F1",
    "accuracy": "accuracy",
    "agreement": "agreement with the original",
}
# Networks that may be compared on the same images. The bound of each allows for all of them.
LOOKS = 16


@dataclass(frozen=True)
class Judged:
    """The judgement on a network, in points.

    Attributes:
        loss: the measured loss.
        bound: largest loss of accuracy that the images do not rule out.
        unchanged: the bound of a network with the same predictions as the original.
        allowed: largest bound with which the network passes.
        passes: whether it passes.
    """

    loss: float
    bound: float
    unchanged: float
    allowed: float
    passes: bool


@dataclass(frozen=True)
class LossRule:
    """The rule by which a network passes: a small measured loss, and no evidence that the real loss may be large.

    A network passes if the metric is at most `max_loss` points below the original's on the same images, and if the
    bound of its loss of accuracy is at most `max_loss` plus `margin` points above that of a network with the same
    predictions. The bound is the largest loss that the images do not rule out with 95 % confidence for all `LOOKS`
    networks together. With the metric `agreement` the original's predictions are the labels.

    Attributes:
        max_loss: largest loss in points.
        margin: points by which the bound may exceed `max_loss` plus the bound of an unchanged network.
        metric: what is compared.
    """

    max_loss: float = 0.5
    margin: float = 3.0
    metric: LossMetric = "macro_f1"

    @property
    def bounded(self) -> str:
        """The name of what the bound limits."""
        return METRIC_NAMES["agreement" if self.metric == "agreement" else "accuracy"]

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
            right = float(images)
        else:
            if self.metric == "accuracy":
                loss = 100 * (counts.lost - counts.gained) / images
            elif views is not None:
                loss = 100 * (views.original_macro_f1 - views.macro_f1)
            else:
                loss = 100 * (original.macro_f1 - network.metrics.macro_f1)
            # An image counts once, however many views it has: errors on its views occur together.
            bound = 100 * largest_loss(*counts, LOOKS)
            right = counts.both + counts.lost
        unchanged = _unchanged(right, images - right)
        allowed = unchanged + self.max_loss + self.margin
        # Means of ratios carry rounding errors.
        return Judged(loss, bound, unchanged, allowed, loss <= self.max_loss + 1e-9 and bound <= allowed + 1e-9)

    def certainty(self, original: Metrics) -> str | None:
        """A warning if the images are so few that they say little about any network; else None.

        Args:
            original: metrics of the original on them.
        """
        right = original.images if self.metric == "agreement" else round(original.accuracy * original.images)
        same = _unchanged(right, original.images - right)
        if same <= self.max_loss + self.margin:
            return None
        return (
            f"warning: {original.images} validation images are few: even of a network with the same predictions they "
            f"rule out only a loss of more than {same:.1f} points of accuracy; more images make the result surer"
        )


def _unchanged(right: float, wrong: float) -> float:
    """The bound of a network with the original's predictions, of which so many are right and wrong, in points."""
    return 100 * largest_loss(right, 0, 0, wrong, LOOKS)

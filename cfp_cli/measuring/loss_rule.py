"""How much a smaller network loses on the validation images, and the rule by which it passes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from cfp_cli.foundation.errors import UsageError
from cfp_cli.measuring.compared import Compared, Loss

LossMetric = Literal["macro_f1", "accuracy", "agreement"]
LOSS_METRICS: tuple[LossMetric, ...] = get_args(LossMetric)
METRIC_NAMES: dict[LossMetric, str] = {
    "macro_f1": "macro-F1",
    "accuracy": "accuracy",
    "agreement": "agreement with the original",
}
# Networks that may be compared on the same images: the more there are, the luckier is the best of them.
LOOKS = 16


@dataclass(frozen=True)
class Judged:
    """The judgement on a network.

    Attributes:
        loss: the measured loss.
        passes: whether the network passes.
    """

    loss: Loss
    passes: bool

    def together(self, max_loss: float) -> str:
        """The loss plus its standard error, with as many digits as show on which side of `max_loss` it is."""
        shown = (digits for digits in range(2, 9) if (round(self.loss.most, digits) <= max_loss) == self.passes)
        return f"{self.loss.most:.{next(shown, 9)}f}"


@dataclass(frozen=True)
class LossRule:
    """The rule by which a network passes: its loss and the standard error of the loss are together small enough.

    The smallest network that passes is partly lucky, and luckier where few images were compared. The standard error
    pays for that. Source: the one-standard-error rule of Breiman et al., Classification and Regression Trees, 1984,
    section 3.4.3.

    Attributes:
        max_loss: largest loss with its standard error, in points.
        metric: what is compared. With `agreement` the original's predictions are the labels.
    """

    max_loss: float = 0.5
    metric: LossMetric = "macro_f1"

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UsageError: a value is not allowed.
        """
        if not 0 <= self.max_loss <= 100:
            raise UsageError(f"--max-loss is {self.max_loss:g}; pass points from 0 to 100")
        if self.metric not in LOSS_METRICS:
            raise UsageError(f"metric '{self.metric}' is unknown; pass one of {', '.join(LOSS_METRICS)}")

    def judge(self, network: Compared) -> Judged:
        """Judge a network that was compared with the original."""
        loss: Loss = getattr(network, self.metric)
        # Means of ratios carry rounding errors.
        return Judged(loss, passes=loss.most <= self.max_loss + 1e-9)

    def warning(self, images: int) -> str | None:
        """A warning if a network that loses one image in all its views fails, although some loss is allowed; else None.

        Args:
            images: number of validation images.
        """
        # The standard error of a loss of one image is one image too.
        one = 200 / images
        if one <= self.max_loss or self.max_loss == 0:
            return None
        return (
            f"warning: {images} validation images are few: one lost image counts {one:.2g} points with its standard "
            f"error, more than --max-loss {self.max_loss:g}; more images make the result surer"
        )

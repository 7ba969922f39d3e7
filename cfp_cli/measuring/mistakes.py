"""The worst mistakes of a network: the images of each class that it takes for another class with most confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cfp_cli.measuring.predictions import Predictions


@dataclass(frozen=True)
class Mistake:
    """One image that a network classifies wrongly.

    Attributes:
        index: index of the image in its split.
        path: the image file.
        label: its true class.
        predicted: the predicted class.
        confidence: the probability of the predicted class.
    """

    index: int
    path: Path
    label: str
    predicted: str
    confidence: float

    def to_json(self) -> dict[str, Any]:
        """Return the mistake as plain data: `path`, `class`, `predicted`, `confidence`."""
        return {
            "path": str(self.path),
            "class": self.label,
            "predicted": self.predicted,
            "confidence": self.confidence,
        }


def worst_mistakes(
    predictions: Predictions, paths: Sequence[Path], classes: Sequence[str], count: int
) -> tuple[Mistake, ...]:
    """Return the mistakes with the highest confidence of each true class, in the order of the classes.

    Args:
        predictions: predictions of N images.
        paths: the N image files.
        classes: class names in the order of the logits.
        count: largest number of mistakes for each class.
    """
    wrong = (predictions.classes != predictions.labels).nonzero().flatten().tolist()
    labels, predicted = predictions.labels.tolist(), predictions.classes.tolist()
    confidence = predictions.confidence.tolist()
    wrong.sort(key=lambda index: (labels[index], -confidence[index], index))
    mistakes: list[Mistake] = []
    taken: dict[int, int] = {}
    for index in wrong:
        label = labels[index]
        taken[label] = taken.get(label, 0) + 1
        if taken[label] <= count:
            mistakes.append(Mistake(index, paths[index], classes[label], classes[predicted[index]], confidence[index]))
    return tuple(mistakes)

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from cfp_cli.foundation.errors import TrainingError
from cfp_cli.measuring.mistakes import worst_mistakes
from cfp_cli.measuring.predictions import Predictions, predict

CLASSES = ("a", "b", "c")


def test_the_most_confident_mistakes_of_each_true_class_come_first() -> None:
    predictions = Predictions(
        classes=torch.tensor([1, 1, 2, 0, 0, 2, 1]),
        confidence=torch.tensor([0.6, 0.9, 0.7, 0.99, 0.4, 0.8, 0.5], dtype=torch.float64),
        labels=torch.tensor([0, 0, 0, 0, 1, 1, 1]),
    )
    paths = [Path(f"{index}.png") for index in range(7)]
    mistakes = worst_mistakes(predictions, paths, CLASSES, 2)
    assert [(each.path.stem, each.label, each.predicted) for each in mistakes] == [
        ("1", "a", "b"),
        ("2", "a", "c"),
        ("5", "b", "c"),
        ("4", "b", "a"),
    ]
    assert mistakes[0].to_json() == {"path": "1.png", "class": "a", "predicted": "b", "confidence": 0.9}
    assert worst_mistakes(predictions, paths, CLASSES, 0) == ()


def test_confidence_is_the_softmax_of_the_predicted_class() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [5.0, 5.0, 5.0], [-100.0, 100.0, 99.0]])
    found = predict(nn.Identity(), [(logits[:2], torch.tensor([0, 1])), (logits[2:], torch.tensor([2]))])
    assert found.classes.tolist() == logits.argmax(1).tolist()
    assert torch.allclose(found.confidence, logits.double().softmax(1).amax(1))
    assert found.labels.tolist() == [0, 1, 2]


def test_an_output_that_is_not_a_matrix_of_logits_is_refused() -> None:
    for output in (torch.zeros(2, 3, 4, 4), torch.zeros(2)):
        with pytest.raises(TrainingError, match=r"not \[images, classes\]"):
            predict(nn.Identity(), [(output, torch.zeros(2, dtype=torch.int64))])

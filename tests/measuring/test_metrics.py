from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cfp_cli.foundation.errors import DataError, TrainingError
from cfp_cli.measuring.metrics import compute_metrics, evaluate

NAMES = ("a", "b", "c")


def test_hand_computed():
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
    predictions = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    metrics = compute_metrics(predictions, labels, NAMES)
    assert metrics.confusion == ((3, 1, 0), (0, 1, 1), (0, 0, 2))
    assert metrics.accuracy == 6 / 8
    assert metrics.macro_recall == pytest.approx((3 / 4 + 1 / 2 + 1) / 3)
    assert metrics.balanced_accuracy == pytest.approx(metrics.macro_recall)
    assert metrics.macro_precision == pytest.approx((1 + 1 / 2 + 2 / 3) / 3)
    assert metrics.macro_f1 == pytest.approx((6 / 7 + 1 / 2 + 4 / 5) / 3)
    assert metrics.per_class["c"].precision == pytest.approx(2 / 3)
    assert [metrics.per_class[name].images for name in NAMES] == [4, 2, 2]
    assert json.loads(json.dumps(metrics.to_json()))["per_class"]["b"]["recall"] == 0.5


def test_standard_errors():
    labels = torch.tensor([0] * 8 + [1] * 2)
    metrics = compute_metrics(torch.tensor([0] * 6 + [1] * 2 + [1] * 2), labels, NAMES)
    assert metrics.standard_error("accuracy") == pytest.approx((9 / 12 * 3 / 12 / 10) ** 0.5)
    recalls = 7 / 10 * 3 / 10 / 8 + 3 / 4 * 1 / 4 / 2
    assert metrics.standard_error("macro_f1") == pytest.approx(recalls**0.5 / 2)
    # Nobody knows a perfect score from ten images.
    assert compute_metrics(labels, labels, NAMES).standard_error("accuracy") > 0


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60))
def test_equals_the_definitions(pairs):
    labels, predictions = (np.array(column) for column in zip(*pairs, strict=True))
    metrics = compute_metrics(torch.from_numpy(predictions), torch.from_numpy(labels), tuple("abcde"))
    recalls, precisions, scores = [], [], []
    for label in range(5):
        hit = int(((labels == label) & (predictions == label)).sum())
        real, said = int((labels == label).sum()), int((predictions == label).sum())
        if real:
            recalls.append(hit / real)
            precisions.append(hit / said if said else 0.0)
            scores.append(2 * hit / (real + said))
    assert metrics.accuracy == pytest.approx(float((labels == predictions).mean()))
    assert metrics.macro_recall == pytest.approx(np.mean(recalls))
    assert metrics.balanced_accuracy == pytest.approx(np.mean(recalls))
    assert metrics.macro_precision == pytest.approx(np.mean(precisions))
    assert metrics.macro_f1 == pytest.approx(np.mean(scores))
    assert metrics.images == len(pairs) == sum(map(sum, metrics.confusion))


class Echo(nn.Module):
    """Gives its input as logits, and remembers that it was in eval mode without gradients."""

    def forward(self, images):
        assert not self.training
        assert torch.is_inference_mode_enabled()
        return images


def test_evaluate_walks_the_loader_and_restores_the_mode():
    model = Echo().train()
    logits, labels = torch.eye(3)[[0, 1, 2, 1]], torch.tensor([0, 1, 2, 2])
    metrics = evaluate(model, [(logits[:3], labels[:3]), (logits[3:], labels[3:])], NAMES)
    assert metrics.accuracy == 0.75
    assert model.training
    frozen = torch.nn.Sequential(Echo().train(), Echo().eval()).train()
    frozen[1].eval()
    evaluate(frozen, [(logits, labels)], NAMES)
    assert [module.training for module in frozen.modules()] == [True, True, False]


def test_bad_input_is_refused():
    with pytest.raises(DataError, match="no image to evaluate"):
        evaluate(Echo(), [], NAMES)
    with pytest.raises(DataError, match="outside the 3 classes"):
        compute_metrics(torch.tensor([0]), torch.tensor([3]), NAMES)
    with pytest.raises(TrainingError, match="NaN or infinite logits"):
        evaluate(Echo(), [(torch.full((1, 3), torch.nan), torch.tensor([0]))], NAMES)


def test_a_class_without_images_is_in_no_mean_and_none_without_predictions_has_a_precision():
    # Class c has no images and is predicted once; b is never predicted.
    metrics = compute_metrics(torch.tensor([0, 0, 2, 0]), torch.tensor([0, 0, 0, 1]), NAMES)
    assert metrics.macro_recall == metrics.balanced_accuracy == pytest.approx((2 / 3 + 0) / 2)
    assert metrics.macro_f1 == pytest.approx((4 / 6 + 0) / 2)
    assert metrics.macro_precision == pytest.approx((2 / 3 + 0) / 2)
    assert metrics.intervals["macro_recall"] == metrics.intervals["balanced_accuracy"]
    defined = {
        name: [each.defines(of) for of in ("recall", "precision", "f1")] for name, each in metrics.per_class.items()
    }
    assert defined == {"a": [True, True, True], "b": [True, False, True], "c": [False, True, False]}


def test_classes_with_the_lowest_recall_are_all_named():
    worst = compute_metrics(torch.tensor([0, 1, 0, 0, 0, 1]), torch.tensor([0, 0, 1, 1, 2, 2]), NAMES).worst_class
    assert (worst.label, worst.names, worst.recall) == ("2 classes", ("b", "c"), 0)
    assert compute_metrics(torch.tensor([0, 1, 0]), torch.tensor([0, 0, 1]), NAMES).worst_class.label == "b"

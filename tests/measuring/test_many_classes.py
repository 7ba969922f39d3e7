"""Metrics of thousands of classes: time and size stay small, and tables and messages name some classes only."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from rich.console import Console

from cfp_cli.commands.eval import confusion_table, metrics_table
from cfp_cli.foundation.naming import name_some
from cfp_cli.foundation.typed_json import convert, to_json
from cfp_cli.measuring.metrics import CONFUSION_LIMIT, Metrics, compute_metrics

COUNT = 5000
NAMES = tuple(f"class{index:04d}" for index in range(COUNT))


def many(count: int = COUNT) -> Metrics:
    """Metrics of four images per class: class 4000 is always taken for class 7, one in eleven others for the next."""
    labels = torch.arange(4 * count) % count
    predictions = torch.where(torch.arange(len(labels)) % 11 == 3, (labels + 1) % count, labels)
    predictions[labels == 4000] = 7
    return compute_metrics(predictions, labels, NAMES[:count])


def test_figures_equal_those_of_torchmetrics() -> None:
    classification = pytest.importorskip("torchmetrics.functional.classification")
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 180, (4000,), generator=generator)
    predictions = torch.where(torch.rand(4000, generator=generator) < 0.6, labels, labels.roll(1))
    metrics = compute_metrics(predictions, labels, NAMES[:200])
    for name, values in (("recall", "recall"), ("precision", "precision"), ("f1_score", "f1")):
        expected = getattr(classification, f"multiclass_{name}")(predictions, labels, num_classes=200, average="none")
        assert [getattr(each, values) for each in metrics.per_class.values()] == pytest.approx(expected.tolist())
    cells = classification.multiclass_confusion_matrix(predictions, labels, num_classes=200)
    shown = [NAMES.index(name) for name in metrics.confusion_classes or ()]
    assert len(shown) == CONFUSION_LIMIT
    assert np.array_equal(metrics.confusion, cells[shown][:, shown])
    errors = cells.sum(0) + cells.sum(1) - 2 * cells.diagonal()
    assert min(errors[shown]) >= max(errors[[index for index in range(200) if index not in shown]])


def test_work_grows_with_the_classes_and_not_with_their_square(count_lines: Callable[..., int]) -> None:
    few, all_of_them = count_lines(lambda: many(500)), count_lines(many)
    assert few > 0
    assert all_of_them < 12 * few


def test_size_is_small() -> None:
    metrics = many()
    assert len(json.dumps(metrics.to_json())) < 1_500_000
    assert metrics.per_class["class4000"].recall == 0.0
    assert "class4000" in (metrics.confusion_classes or ())
    assert convert(Metrics, json.loads(json.dumps(to_json(metrics))), "val") == metrics


def test_tables_name_the_worst_classes_and_the_number_of_the_others() -> None:
    console = Console(width=120)
    metrics = many()
    with console.capture() as shown:
        console.print(metrics_table(metrics, "many"), confusion_table(metrics, 120))
    text = shown.get()
    assert len(text.splitlines()) < 100
    assert max(map(len, text.splitlines())) <= 120
    assert "class4000" in text
    assert "4950 other classes: see --json" in text
    assert "4982 classes with fewer errors are left out" in text


def test_few_classes_are_all_shown() -> None:
    metrics = compute_metrics(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 2]), NAMES[:3])
    assert metrics.confusion_classes is None
    assert metrics.most_confused(20).classes == NAMES[:3]
    assert metrics.most_confused(20).rows == metrics.confusion
    assert metrics.most_confused(2).classes == NAMES[1:3]
    assert metrics.most_confused(2).rows == ((1, 0), (1, 0))
    assert metrics.most_confused(2).left_out == 1


def test_messages_name_some_classes() -> None:
    assert name_some(NAMES[:2]) == "class0000, class0001"
    assert name_some(NAMES, 2) == "class0000, class0001 and 4998 more"
    assert name_some([]) == ""

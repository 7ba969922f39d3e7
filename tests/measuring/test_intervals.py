from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from cfp_cli.measuring.intervals import Estimate, mean_interval, paired_difference, wilson
from cfp_cli.measuring.metrics import compute_metrics

NAMES = tuple("abcdef")


@given(st.integers(1, 5000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_wilson_is_scipys(case):
    successes, total = case
    low, high = wilson(successes, total)
    expected = binomtest(successes, total).proportion_ci(0.95, method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= low <= successes / total <= high <= 1
    assert low < high


def test_nothing_is_known_without_images():
    assert wilson(0, 0) == (0, 1)


def test_a_mean_of_one_is_itself():
    interval = wilson(7, 9)
    assert mean_interval([Estimate(7 / 9, interval)], shared_errors=True) == pytest.approx(interval)


def covered(make, truth, draws=400):
    """Share of simulated test sets whose interval contains the true value."""
    return np.mean([low <= truth <= high for low, high in (make() for _ in range(draws))])


def test_intervals_of_macro_f1_cover_the_true_value():
    generator = np.random.default_rng(0)
    # Rare classes, and errors between pairs of classes, which are the most correlated.
    shares = np.array([0.4, 0.3, 0.12, 0.1, 0.05, 0.03])
    confusion = np.diag(shares * 0.85)
    for a, b in ((0, 1), (2, 3), (4, 5)):
        confusion[a, b], confusion[b, a] = 0.15 * shares[a], 0.15 * shares[b]
    hits, true, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    truths = {"macro_f1": np.mean(2 * hits / (true + predicted)), "macro_recall": np.mean(hits / true)}
    labels, predictions = np.meshgrid(range(6), range(6), indexing="ij")

    def draw():
        cells = generator.choice(36, size=300, p=confusion.ravel())
        return compute_metrics(
            torch.from_numpy(predictions.ravel()[cells]), torch.from_numpy(labels.ravel()[cells]), NAMES
        ).intervals

    samples = [draw() for _ in range(300)]
    for metric, truth in truths.items():
        inside = np.mean([each[metric].low <= truth <= each[metric].high for each in samples])
        assert inside >= 0.92, metric


def test_a_paired_difference_covers_and_is_antisymmetric():
    generator = np.random.default_rng(1)
    cells = (0.85, 0.06, 0.03, 0.06)
    assert covered(lambda: paired_difference(*generator.multinomial(200, cells)), cells[2] - cells[1]) >= 0.93
    low, high = paired_difference(80, 7, 2, 11)
    assert paired_difference(80, 2, 7, 11) == pytest.approx((-high, -low))
    # Networks that agree differ by less than two independent ones.
    assert high - low < wilson(82, 100).high - wilson(82, 100).low + wilson(87, 100).high - wilson(87, 100).low
    low, high = paired_difference(100, 0, 0, 0)
    assert low < 0 < high


def metrics(labels, predictions):
    return compute_metrics(torch.tensor(predictions), torch.tensor(labels), NAMES)


@pytest.mark.parametrize(
    ("labels", "predictions", "collapsed"),
    [
        ([0, 1, 2, 3, 4, 5] * 4, [2] * 24, "c"),
        # One image in twenty is named otherwise: "nearly all".
        ([0, 1] * 10, [1] * 19 + [0], "b"),
        # Imbalanced images and a network that finds the rare class.
        ([0] * 97 + [1] * 3, [0] * 97 + [1] * 3, None),
        # Imbalanced images and a network that does not.
        ([0] * 97 + [1] * 3, [0] * 100, "a"),
        # Two classes of six are named.
        ([0, 1, 2, 3, 4, 5] * 4, [0, 1] * 12, None),
        # All images are of one class: naming it is right; naming another for all is not.
        ([1] * 9, [1] * 9, None),
        # Chance.
        ([0, 0, 1, 1], [0, 1, 0, 1], None),
    ],
)
def test_collapse(labels, predictions, collapsed):
    result = metrics(labels, predictions)
    assert (result.collapse.name if result.collapse else None) == collapsed
    assert result.to_json()["collapsed"] == collapsed


def test_the_worst_class_has_the_lowest_recall():
    result = metrics([0, 0, 1, 1, 1, 1, 2, 2], [0, 0, 1, 0, 0, 0, 2, 0])
    worst = result.worst_class
    assert (worst.name, worst.recall, worst.images) == ("b", 0.25, 4)
    data = json.loads(json.dumps(result.to_json()))
    assert data["worst_class"]["name"] == "b"
    assert data["intervals"]["accuracy"] == pytest.approx(list(wilson(4, 8)))
    assert data["class_intervals"]["b"]["recall"] == pytest.approx(list(wilson(1, 4)))
    # A class without images is not the worst.
    assert data["class_intervals"]["f"]["recall"] == [0, 1]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_every_interval_contains_its_figure(pairs):
    labels, predictions = (list(column) for column in zip(*pairs, strict=True))
    result = metrics(labels, predictions)
    for name, (low, high) in result.intervals.items():
        assert -1e-9 <= low <= getattr(result, name) + 1e-9
        assert getattr(result, name) - 1e-9 <= high <= 1 + 1e-9
    for name, each in result.class_intervals.items():
        for metric, (low, high) in each.items():
            assert low - 1e-9 <= getattr(result.per_class[name], metric) <= high + 1e-9

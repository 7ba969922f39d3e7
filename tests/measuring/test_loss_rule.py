"""The rule by which a small network passes on the validation images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cfp_cli.foundation.errors import UsageError
from cfp_cli.foundation.typed_json import FieldError
from cfp_cli.measuring.compared import Compared
from cfp_cli.measuring.intervals import largest_loss, paired_difference
from cfp_cli.measuring.loss_rule import LOOKS, LossMetric, LossRule
from cfp_cli.measuring.metrics import compute_metrics

CLASSES = ("a", "b", "c")


def compared(images: int, lost: int = 0, gained: int = 0, wrong: int = 0) -> tuple[Compared, float]:
    """A network beside an original, and the original's accuracy."""
    labels = torch.arange(images) % 3
    original, network = labels.clone(), labels.clone()
    network[:lost] = (labels[:lost] + 1) % 3
    both_wrong = slice(lost, lost + wrong)
    original[both_wrong] = network[both_wrong] = (labels[both_wrong] + 1) % 3
    only = slice(lost + wrong, lost + wrong + gained)
    original[only] = (labels[only] + 1) % 3
    return Compared.of(original, network, labels, CLASSES), float((original == labels).double().mean())


def judge(rule: LossRule, images: int, lost: int = 0, gained: int = 0, wrong: int = 0):
    labels = torch.arange(images) % 3
    network, accuracy = compared(images, lost, gained, wrong)
    original = labels.clone()
    original[lost : lost + wrong + gained] = (original[lost : lost + wrong + gained] + 1) % 3
    metrics = compute_metrics(original, labels, CLASSES)
    assert metrics.accuracy == pytest.approx(accuracy)
    return rule.judge(metrics, network)


@pytest.mark.parametrize("images", [140, 190, 1000])
def test_equal_predictions_pass_and_a_larger_loss_fails(images: int) -> None:
    for metric in ("macro_f1", "accuracy", "agreement"):
        rule = LossRule(0.5, 5.0, metric)
        assert judge(rule, images, wrong=1).passes
        assert judge(rule, images).loss == 0
        assert not judge(rule, images, lost=images // 100 + 1).passes


def test_many_changed_predictions_fail_without_a_loss() -> None:
    rule = LossRule(0.5, metric="accuracy")
    steady, changed = judge(rule, 150, 1, 1), judge(rule, 150, 12, 12)
    assert steady.loss == changed.loss == 0
    assert steady.passes
    assert not changed.passes
    assert changed.bound > steady.bound
    assert judge(LossRule(0.5, 5.0, "agreement"), 1500, 8, 8).loss == pytest.approx(100 * 16 / 1500)


def test_the_bound_holds_for_all_looks_together() -> None:
    counts = (180, 3, 2, 5)
    assert largest_loss(*counts, looks=LOOKS) > largest_loss(*counts) > 0
    # One side of an interval of 90 %.
    assert largest_loss(*counts) == pytest.approx(-paired_difference(*counts, z=1.6448536269514722).low)
    generator = np.random.default_rng(0)
    missed = 0
    for _ in range(300):
        # Networks that really lose 2 points; the best of all looks is chosen.
        bounds = []
        for _ in range(LOOKS):
            lost, gained = generator.binomial(150, 0.03), generator.binomial(150, 0.01)
            bounds.append(largest_loss(150 - lost - gained, lost, gained, 0, LOOKS))
        missed += min(bounds) < 0.02
    assert missed <= 15


@pytest.mark.parametrize("metric", ["macro_f1", "accuracy", "agreement"])
@pytest.mark.parametrize("images", [8, 60, 20_000])
def test_a_network_with_the_same_predictions_passes_however_few_images_there_are(
    images: int, metric: LossMetric
) -> None:
    rule = LossRule(0.0, 0.0, metric)
    judged = judge(rule, images)
    assert judged.passes
    assert judged.bound == judged.unchanged == judged.allowed


def test_a_margin_counts_what_changed_predictions_add_to_the_bound() -> None:
    network = judge(LossRule(0.5, 3.0, "accuracy"), 150, 3, 3)
    added = network.bound - judge(LossRule(0.5, 3.0, "accuracy"), 150, wrong=3).unchanged
    assert added == pytest.approx(network.bound - network.unchanged)
    assert judge(LossRule(0.5, added - 0.49, "accuracy"), 150, 3, 3).passes
    assert not judge(LossRule(0.5, added - 0.51, "accuracy"), 150, 3, 3).passes


def test_few_images_are_warned_of() -> None:
    for images, few in ((60, True), (5000, False)):
        labels = torch.arange(images) % 3
        warning = LossRule().certainty(compute_metrics(labels, labels, CLASSES))
        assert (warning is not None) == few
        assert warning is None or "60 validation images are few" in warning


def test_wrong_values_are_refused() -> None:
    for values in ({"max_loss": -1.0}, {"margin": float("nan")}, {"max_loss": 101.0}, {"metric": "f1"}):
        with pytest.raises(UsageError):
            LossRule(**values)
    network, _ = compared(30)
    with pytest.raises(FieldError):
        Compared(network.metrics, 31, 0, 0, 0, 30)

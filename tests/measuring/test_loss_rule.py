"""The rule by which a small network passes on the validation images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cfp_cli.foundation.errors import TargetError, UsageError
from cfp_cli.foundation.typed_json import FieldError
from cfp_cli.measuring.compared import Compared
from cfp_cli.measuring.intervals import largest_loss, paired_difference
from cfp_cli.measuring.loss_rule import LOOKS, LossRule
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
    rule = LossRule(0.5, 5.0, "accuracy")
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


def test_too_few_images_are_refused_with_the_margin_that_they_need() -> None:
    labels = torch.arange(60) % 3
    metrics = compute_metrics(labels, labels, CLASSES)
    with pytest.raises(TargetError, match=r"60 validation images are too few.*--margin 10\.6") as refused:
        LossRule().require_images(metrics)
    LossRule(margin=float(str(refused.value).split()[-1])).require_images(metrics)


def test_wrong_values_are_refused() -> None:
    for values in ({"max_loss": -1.0}, {"margin": float("nan")}, {"max_loss": 101.0}, {"metric": "f1"}):
        with pytest.raises(UsageError):
            LossRule(**values)
    network, _ = compared(30)
    with pytest.raises(FieldError):
        Compared(network.metrics, 31, 0, 0, 0, 30)

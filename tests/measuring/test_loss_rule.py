"""The rule by which a small network passes on the validation images."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from cfp_cli.foundation.errors import UsageError
from cfp_cli.measuring.compared import Compared, Loss
from cfp_cli.measuring.loss_rule import LOSS_METRICS, Judged, LossMetric, LossRule

CLASSES = ("a", "b", "c")


def compared(images: int, lost: int = 0, gained: int = 0, wrong: int = 0) -> Compared:
    """A network beside an original, of images that one of them, or both, classify wrongly."""
    labels = torch.arange(images) % 3
    original, network = labels.clone(), labels.clone()
    network[:lost] = (labels[:lost] + 1) % 3
    both_wrong = slice(lost, lost + wrong)
    original[both_wrong] = network[both_wrong] = (labels[both_wrong] + 1) % 3
    only = slice(lost + wrong, lost + wrong + gained)
    original[only] = (labels[only] + 1) % 3
    return Compared.of(original[None], network[None], labels[None], CLASSES)


@pytest.mark.parametrize("images", [140, 190, 1000])
def test_equal_predictions_pass_and_a_larger_loss_fails(images: int) -> None:
    for metric in LOSS_METRICS:
        rule = LossRule(0.5, metric)
        assert rule.judge(compared(images, wrong=1)).passes
        assert rule.judge(compared(images)).loss.points == 0
        assert not rule.judge(compared(images, lost=images // 100 + 1)).passes


def test_the_standard_error_counts() -> None:
    judged = LossRule(0.5, "accuracy").judge(compared(1000, lost=4))
    assert judged.loss.points == pytest.approx(0.4)
    assert judged.loss.most == pytest.approx(0.4 + judged.loss.standard_error)
    assert not judged.passes
    assert LossRule(judged.loss.most, "accuracy").judge(compared(1000, lost=4)).passes
    assert not LossRule(judged.loss.most - 0.001, "accuracy").judge(compared(1000, lost=4)).passes


@given(st.floats(0, 5), st.integers(0, 500))
@example(0.501, 50)
@example(0.504, 50)
def test_the_printed_sum_is_on_the_same_side_of_the_limit(loss: float, hundredths: int) -> None:
    limit = hundredths / 100
    judged = Judged(Loss(loss, 0.0), passes=loss <= limit)
    assume(abs(loss - limit) > 1e-8)
    text = judged.together(limit)
    assert (float(text) <= limit) == judged.passes
    assert float(text) == pytest.approx(loss, abs=0.005)


def test_many_changed_predictions_fail_without_a_loss() -> None:
    rule = LossRule(0.5, metric="accuracy")
    steady, changed = rule.judge(compared(1500, 5, 5)), rule.judge(compared(1500, 60, 60))
    assert steady.loss.points == changed.loss.points == 0
    assert steady.passes
    assert not changed.passes
    assert LossRule(0.5, "agreement").judge(compared(1500, 8, 8)).loss.points == pytest.approx(100 * 16 / 1500)


@pytest.mark.parametrize("metric", LOSS_METRICS)
@pytest.mark.parametrize("images", [8, 60, 20_000])
def test_a_network_with_the_same_predictions_passes_however_few_images_there_are(
    images: int, metric: LossMetric
) -> None:
    assert LossRule(0.0, metric).judge(compared(images, wrong=1)).passes


def test_few_images_are_warned_of() -> None:
    assert LossRule(0.5).warning(400) is LossRule(0.0).warning(60) is None
    warning = LossRule(0.5).warning(60)
    assert warning is not None
    assert "60 validation images are few: one lost image counts 3.3 points" in warning


@pytest.mark.parametrize("metric", LOSS_METRICS)
@pytest.mark.parametrize("max_loss", [0.5, 1.0])
def test_the_warning_is_about_the_loss_of_one_image(metric: LossMetric, max_loss: float) -> None:
    for images in (60, 180, 240, 390, 420, 900):
        rule = LossRule(max_loss, metric)
        assert (rule.warning(images) is None) == rule.judge(compared(images, lost=1)).passes


def test_wrong_values_are_refused() -> None:
    for values in ({"max_loss": -1.0}, {"max_loss": float("nan")}, {"max_loss": 101.0}, {"metric": "f1"}):
        with pytest.raises(UsageError):
            LossRule(**values)

"""The comparison of two networks on several views of each image, and the judgement on it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cfp_cli.foundation.typed_json import FieldError
from cfp_cli.measuring.compared import Compared, ComparedViews
from cfp_cli.measuring.intervals import largest_loss
from cfp_cli.measuring.loss_rule import LOOKS, LossRule
from cfp_cli.measuring.metrics import compute_metrics

CLASSES = ("a", "b", "c")
LABELS = torch.arange(210) % 3


def compared(original: Tensor, network: Tensor) -> Compared:
    """Compare predictions [V, N]; the first view is the image itself."""
    labels = LABELS.expand(len(original), -1)
    views = ComparedViews.of(original, network, labels, CLASSES)
    return Compared.of(original[0], network[0], LABELS, CLASSES, views)


def wrong_at(views: int, *wrong: tuple[int, int]) -> Tensor:
    """Predictions [V, N] that are right except at (view, image)."""
    predictions = LABELS.repeat(views, 1)
    for view, image in wrong:
        predictions[view, image] = (predictions[view, image] + 1) % 3
    return predictions


@pytest.mark.parametrize("metric", ["macro_f1", "accuracy", "agreement"])
def test_views_that_all_agree_say_what_the_images_say(metric: str) -> None:
    rule = LossRule(1.0, 5.0, metric)
    original, network = wrong_at(1, (0, 5)), wrong_at(1, (0, 5), (0, 9), (0, 77))
    plain = Compared.of(original[0], network[0], LABELS, CLASSES)
    before = compute_metrics(original[0], LABELS, CLASSES)
    repeated = compared(original.expand(8, -1), network.expand(8, -1))
    first, second = rule.judge(before, plain), rule.judge(before, repeated)
    assert second.loss == pytest.approx(first.loss)
    assert second.bound == pytest.approx(first.bound), "an image counts once"
    assert first.passes == second.passes


def test_an_image_that_is_lost_in_half_of_its_views_counts_half() -> None:
    original = wrong_at(4)
    network = wrong_at(4, (1, 3), (2, 3), (3, 8))
    before = compute_metrics(LABELS, LABELS, CLASSES)
    judged = LossRule(0.5, 5.0, "accuracy").judge(before, compared(original, network))
    assert judged.loss == pytest.approx(100 * 3 / 4 / 210)
    assert judged.bound == pytest.approx(100 * largest_loss(210 - 0.75, 0.75, 0, 0, LOOKS))
    assert LossRule(0.5, 5.0, "agreement").judge(before, compared(original, network)).loss == judged.loss


@pytest.mark.parametrize("metric", ["macro_f1", "accuracy", "agreement"])
def test_a_network_that_fails_only_on_views_does_not_pass(metric: str) -> None:
    network = wrong_at(4, *((view, image) for view in (1, 2, 3) for image in range(0, 8 * view, 3)))
    made = compared(wrong_at(4), network)
    before = compute_metrics(LABELS, LABELS, CLASSES)
    rule = LossRule(0.5, 5.0, metric)
    assert made.metrics.macro_f1 == before.macro_f1, "the reported figure is that of the images themselves"
    assert not rule.judge(before, made).passes
    assert rule.judge(before, Compared.of(LABELS, LABELS, LABELS, CLASSES)).passes


@pytest.mark.parametrize("alike", [0.0, 0.7, 1.0])
def test_the_bound_holds_however_much_the_views_of_an_image_have_in_common(alike: float) -> None:
    generator = np.random.default_rng(0)
    loss, images, views, trials = 0.03, 210, 6, 400
    missed = 0
    for _ in range(trials):
        # Each view repeats the image's own outcome with probability `alike`, and is drawn anew otherwise.
        own, fresh = (generator.random((size, images)) < loss for size in (1, views))
        lost = np.where(generator.random((views, images)) < alike, own, fresh)
        count = lost.sum() / views
        missed += largest_loss(images - count, count, 0, 0) < loss
    assert missed / trials <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / trials)


def test_numbers_that_do_not_fit_are_refused() -> None:
    views = compared(wrong_at(2), wrong_at(2)).on_views
    assert views is not None
    with pytest.raises(FieldError, match="2 views of 209 images"):
        Compared.of(LABELS[:209], LABELS[:209], LABELS[:209], CLASSES, views)
    with pytest.raises(FieldError, match="do not fit"):
        ComparedViews(2, 1.0, 1.0, -1, 0, 0, 0, 0)
    with pytest.raises(FieldError, match=r"macro_f1 is 1\.5"):
        ComparedViews(1, 1.0, 1.5, 1, 0, 0, 0, 1)

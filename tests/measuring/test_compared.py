"""The comparison of two networks on several views of each image, and its standard error."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cfp_cli.foundation.errors import DataError
from cfp_cli.foundation.typed_json import FieldError
from cfp_cli.measuring.compared import Compared, Loss
from cfp_cli.measuring.metrics import compute_metrics

CLASSES = ("a", "b", "c", "never")
LABELS = torch.arange(210) % 3
LOSSES = ("accuracy", "macro_f1", "agreement")


def compared(original: Tensor, network: Tensor, labels: Tensor = LABELS) -> Compared:
    """Compare predictions [V, N]; the first view is the image itself."""
    return Compared.of(original, network, labels.expand(len(original), -1), CLASSES)


def wrong_at(views: int, *wrong: tuple[int, int]) -> Tensor:
    """Predictions [V, N] that are right except at (view, image)."""
    predictions = LABELS.repeat(views, 1)
    for view, image in wrong:
        predictions[view, image] = (predictions[view, image] + 1) % 3
    return predictions


def drawn(views: int, images: int, wrong: float, seed: int) -> tuple[Tensor, Tensor]:
    """Labels [N] and predictions [V, N], of which a part is drawn from all classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (images,), generator=generator)
    other = torch.randint(4, (views, images), generator=generator)
    return labels, torch.where(torch.rand(views, images, generator=generator) < wrong, other, labels)


def test_the_losses_are_differences_of_the_metrics() -> None:
    labels, original = drawn(3, 90, 0.1, 0)
    _, network = drawn(3, 90, 0.3, 0)
    found = compared(original, network, labels)
    truth = labels.repeat(3)
    before, after = (compute_metrics(each.flatten(), truth, CLASSES) for each in (original, network))
    assert found.accuracy.points == pytest.approx(100 * (before.accuracy - after.accuracy))
    assert found.macro_f1.points == pytest.approx(100 * (before.macro_f1 - after.macro_f1))
    assert found.agreement.points == pytest.approx(100 * float((original != network).double().mean()))
    assert found.metrics == compute_metrics(network[0], labels, CLASSES)
    assert found.views == 3


def test_the_standard_error_is_that_of_leaving_out_one_image() -> None:
    labels, original = drawn(2, 40, 0.1, 1)
    _, network = drawn(2, 40, 0.4, 1)
    found = compared(original, network, labels)
    rest = {"accuracy": [], "macro_f1": []}
    for image in range(40):
        kept = torch.arange(40) != image
        truth = labels[kept].repeat(2)
        before, after = (compute_metrics(each[:, kept].flatten(), truth, CLASSES) for each in (original, network))
        for name, values in rest.items():
            values.append(100 * (getattr(before, name) - getattr(after, name)))
    for name, values in rest.items():
        jackknife = np.sqrt(39 / 40 * np.square(np.array(values) - np.mean(values)).sum())
        assert getattr(found, name).standard_error == pytest.approx(jackknife), name


@pytest.mark.parametrize("name", LOSSES)
def test_views_that_all_agree_say_what_the_images_say(name: str) -> None:
    original, network = wrong_at(1, (0, 5)), wrong_at(1, (0, 5), (0, 9), (0, 77))
    plain, repeated = compared(original, network), compared(original.expand(8, -1), network.expand(8, -1))
    first, second = getattr(plain, name), getattr(repeated, name)
    assert second.points == pytest.approx(first.points)
    assert second.standard_error == pytest.approx(first.standard_error), "an image counts once"


def test_an_image_that_is_lost_in_half_of_its_views_counts_half() -> None:
    found = compared(wrong_at(4), wrong_at(4, (1, 3), (2, 3), (3, 8)))
    assert found.accuracy.points == pytest.approx(100 * 3 / 4 / 210)
    assert found.agreement == found.accuracy


@pytest.mark.parametrize("name", LOSSES)
def test_the_same_predictions_lose_nothing(name: str) -> None:
    labels, predictions = drawn(3, 50, 0.3, 2)
    assert getattr(compared(predictions, predictions, labels), name) == Loss(0.0, 0.0)


@pytest.mark.parametrize("alike", [0.0, 0.7, 1.0])
def test_the_standard_error_is_the_spread_over_sets_of_images(alike: float) -> None:
    """However much the views of an image have in common."""
    generator = np.random.default_rng(0)
    losses, errors = [], []
    for _ in range(300):
        # Each view repeats the image's own outcome with probability `alike`, and is drawn anew otherwise.
        own, fresh = (generator.random((size, 210)) < 0.1 for size in (1, 6))
        lost = torch.from_numpy(np.where(generator.random((6, 210)) < alike, own, fresh))
        found = compared(LABELS.expand(6, -1), torch.where(lost, (LABELS + 1) % 3, LABELS))
        losses.append([found.accuracy.points, found.macro_f1.points])
        errors.append([found.accuracy.standard_error, found.macro_f1.standard_error])
    assert np.mean(errors, 0) == pytest.approx(np.std(losses, 0), rel=0.12)


def test_many_classes_are_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, original = drawn(2, 41, 0.1, 3)
    _, network = drawn(2, 41, 0.4, 3)
    whole = compared(original, network, labels)
    monkeypatch.setattr("cfp_cli.measuring.compared._ENTRIES", 20)
    assert compared(original, network, labels) == whole


def test_one_image_says_nothing() -> None:
    one = torch.zeros(1, 1, dtype=torch.int64)
    assert [getattr(Compared.of(one, one, one, CLASSES), name).standard_error for name in LOSSES] == [100.0] * 3


def test_what_does_not_fit_is_refused() -> None:
    for views, error in ((0, FieldError), (1, None)):
        made = compared(wrong_at(1), wrong_at(1))
        if error is None:
            Compared(made.metrics, views, made.accuracy, made.macro_f1, made.agreement)
            continue
        with pytest.raises(error, match="views is 0"):
            Compared(made.metrics, views, made.accuracy, made.macro_f1, made.agreement)
    for points, standard_error in ((float("nan"), 0.0), (0.0, -1.0), (0.0, float("inf"))):
        with pytest.raises(FieldError, match="is none"):
            Loss(points, standard_error)
    with pytest.raises(DataError):
        compared(wrong_at(1), wrong_at(1), LABELS + 4)

"""The warnings about teachers that do not know the views, or a class, that their students learn from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cfp_cli.measuring.metrics import compute_metrics
from cfp_cli.training.teacher_check import check_classes, check_views

LABELS = torch.tensor([0, 1, 1, 0] * 5)
CLASSES = ("dark", "light", "dent")


class Told(list):
    def say(self, message):
        self.append(message)


@pytest.mark.parametrize(("wrong", "warns"), [(0, False), (1, False), (4, True), (40, True)])
def test_a_teacher_that_does_not_know_the_views_is_told_of(wrong, warns):
    logits = np.zeros((len(LABELS), 2, 2), np.float32)
    logits[np.arange(len(LABELS)), :, LABELS.numpy()] = 1
    logits.reshape(-1, 2)[:wrong] *= -1
    told = Told()
    plain = compute_metrics(LABELS, LABELS, CLASSES[:2])
    assert check_views("representation teacher", logits, LABELS, plain, told) == 1 - wrong / 40
    assert [line.startswith("warning: the representation teacher is right on") for line in told] == [True] * warns


@pytest.mark.parametrize(("seen", "missed"), [([0, 1, 1], ()), ([0, 0, 0], ("light",)), ([1, 0, 0], ("dark", "light"))])
def test_a_class_of_which_a_teacher_recognises_nothing_is_told_of(seen, missed):
    told = Told()
    # No image is of the third class, which says nothing about it.
    plain = compute_metrics(torch.tensor(seen), torch.tensor([0, 1, 1]), CLASSES)
    assert check_classes("classifier teacher", plain, told) == missed
    names = ", ".join(missed)
    start = f"warning: the classifier teacher recognises no validation image of {names}, which its student"
    assert [line.startswith(start) for line in told] == [True] * bool(missed)

"""The warnings about teachers that do not recognise the augmented views, or one of the classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cfp_cli.measuring.metrics import compute_metrics
from cfp_cli.training.teacher_check import check_classes, check_views

LABELS = torch.tensor([0, 1, 1, 0] * 5)
CLASSES = ("dark", "light", "dent")


class Messages(list):
    def say(self, message):
        self.append(message)


@pytest.mark.parametrize(("wrong", "warns"), [(0, False), (1, False), (4, True), (40, True)])
def test_warns_about_a_teacher_that_does_not_recognise_the_views(wrong, warns):
    logits = np.zeros((len(LABELS), 2, 2), np.float32)
    logits[np.arange(len(LABELS)), :, LABELS.numpy()] = 1
    logits.reshape(-1, 2)[:wrong] *= -1
    messages = Messages()
    plain = compute_metrics(LABELS, LABELS, CLASSES[:2])
    assert check_views("representation teacher", logits, LABELS, plain, messages) == 1 - wrong / 40
    assert [line.startswith("warning: the representation teacher is right on") for line in messages] == [True] * warns


@pytest.mark.parametrize(("seen", "missed"), [([0, 1, 1], ()), ([0, 0, 0], ("light",)), ([1, 0, 0], ("dark", "light"))])
def test_warns_about_a_class_that_a_teacher_does_not_recognise(seen, missed):
    messages = Messages()
    # The third class has no validation image, so there is no warning about it.
    plain = compute_metrics(torch.tensor(seen), torch.tensor([0, 1, 1]), CLASSES)
    assert check_classes("class-balanced teacher", plain, messages) == missed
    names = ", ".join(missed)
    start = f"warning: the class-balanced teacher recognises no validation image of {names}, so the student"
    assert [line.startswith(start) for line in messages] == [True] * bool(missed)

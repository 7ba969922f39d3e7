"""The warning about teachers that do not know the views their students learn from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from cfp_cli.checkpoint import ModelSpec, describe
from cfp_cli.training.teacher_check import check_teacher

LABELS = torch.tensor([0, 1, 1, 0] * 5)


class Plain:
    """Validation images whose only pixel is their label."""

    def batches(self, size):
        return [(LABELS.float()[:, None, None, None].expand(-1, 3, 1, 1), LABELS)]


class Told(list):
    def say(self, message):
        self.append(message)


@pytest.fixture
def teacher():
    """Right on every plain image."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[-1.0] * 3, [1.0] * 3]))
        network[1].bias.copy_(torch.tensor([1.0, -1.0]))
    return describe(network, ModelSpec("here.py:net", ("dark", "light"), input_size=(1, 1)))


@pytest.mark.parametrize(("wrong", "warns"), [(0, False), (1, False), (4, True), (40, True)])
def test_a_teacher_that_does_not_know_the_views_is_told_of(teacher, wrong, warns):
    logits = np.zeros((len(LABELS), 2, 2), np.float32)
    logits[np.arange(len(LABELS)), :, LABELS.numpy()] = 1
    logits.reshape(-1, 2)[:wrong] *= -1
    told = Told()
    assert check_teacher("representation teacher", teacher, logits, LABELS, Plain(), told) == 1 - wrong / 40
    assert [line.startswith("warning: the representation teacher is right on") for line in told] == [True] * warns

"""A student is in evaluation mode, but for its batch norms; a network that learns from labels is in training mode."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfp_cli.execution.distributed import Workers
from cfp_cli.training.loss import Batch
from cfp_cli.training.options import TrainOptions
from cfp_cli.training.trainer import Trainer
from cfp_cli.training.training_mode import set_training_mode


class Network(nn.Module):
    """Drops channels by a module and by a function, and records the modes that it ran in."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.drop = nn.Conv2d(3, 4, 1), nn.Dropout(0.5)
        self.norm, self.plain = nn.BatchNorm2d(4), nn.BatchNorm2d(4, track_running_stats=False)
        self.head = nn.Linear(4, 2)
        self.seen: list[tuple[bool, ...]] = []

    @property
    def modes(self) -> tuple[bool, ...]:
        return self.training, self.drop.training, self.norm.training, self.plain.training

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(self.modes)
        y = self.plain(self.norm(self.drop(self.first(x))))
        return self.head(F.dropout(y, 0.5, self.training).mean((2, 3)))


@pytest.mark.parametrize(
    ("student", "freeze", "modes"),
    [
        (False, False, (True, True, True, True)),
        (False, True, (True, True, False, True)),
        (True, False, (False, False, True, True)),
        (True, True, (False, False, False, True)),
    ],
)
@pytest.mark.parametrize("before", [True, False])
def test_the_mode_of_each_module(student: bool, freeze: bool, modes: tuple[bool, ...], before: bool) -> None:
    network = Network().train(before)
    set_training_mode(network, student=student, freeze_norm=freeze)
    assert network.modes == modes


@pytest.mark.parametrize("student", [True, False])
def test_the_loss_of_a_student_is_not_random(student: bool) -> None:
    network = Network()
    images = torch.rand(8, 3, 5, 5)
    options = TrainOptions.preset("short", epochs=1, ema=0.0)
    trainer = Trainer(network, options, torch.device("cpu"), Workers(), images[:2], student=student)
    batch = Batch(*(torch.zeros(8, dtype=torch.int64).numpy() for _ in range(2)), torch.zeros(8, dtype=torch.int64), 0)
    network.seen.clear()
    losses = [
        trainer.train_step(
            images, batch, lambda logits, _: logits.square().mean().repeat(3), share=1, step=0, lr=0.0, seed=seed
        )[0]
        for seed in (0, 1)
    ]
    assert set(network.seen) == {(not student, not student, True, True)}
    assert bool(losses[0] == losses[1]) == student

"""The losses: cross-entropy for teachers, knowledge distillation from one or two cached teachers for students."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Indices = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True)
class Draw:
    """One batch: which views of which images, and what is known of them.

    Attributes:
        images: int64 [n], positions in the training split.
        views: int64 [n], a view of each.
        labels: int64 [n], on the device of the logits.
        epoch: from 0.
    """

    images: Indices
    views: Indices
    labels: Tensor
    epoch: int


class Objective(Protocol):
    """What the loop minimises."""

    @property
    def teachers(self) -> int:
        """How many teachers the loss has: 0, 1 or 2."""
        ...

    def __call__(self, logits: Tensor, draw: Draw) -> Tensor:
        """Give [loss, its share to the first teacher, its share to the second], float32 [3], each the batch's mean.

        A share that the objective does not have is 0.
        """
        ...

    def mix(self, epoch: int) -> float | None:
        """The weight l of the first of two teachers in an epoch, or None without two teachers."""
        ...


def kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Distillation loss T^2 KL(softmax(t/T) || softmax(s/T)), mean over the batch.

    Source: Hinton et al. 2015, as used in Wang et al., IEEE TII 2023, doi 10.1109/TII.2023.3288208.

    Args:
        student: logits float32 [n, classes].
        teacher: logits float32 [n, classes], constant.
        temperature: T.
    """
    divergence = functional.kl_div(
        functional.log_softmax(student / temperature, dim=1),
        functional.softmax(teacher / temperature, dim=1),
        reduction="batchmean",
    )
    return divergence * temperature**2


def mix(epoch: int, epochs: int) -> float:
    """The weight of the representation teacher: l = cos(e/E pi/2), from 1 in the first epoch (e = 0) towards 0."""
    return math.cos(epoch / epochs * math.pi / 2)


def class_weights(labels: Tensor, classes: int, draw_probability: Tensor) -> Tensor:
    """Weights float32 [classes] that make the mean over drawn images a mean over equally frequent classes.

    An image of class c is drawn with probability p_c in all, so it weighs (1 / #classes with images) / p_c: with plain
    shuffling N / (K n_c), with balanced draws 1.

    Args:
        labels: int64 [N] of the training split.
        classes: number of logits.
        draw_probability: float64 [N], the probability with which the sampler's next draw is each image; sums to 1.
    """
    share = torch.zeros(classes, dtype=torch.float64).index_add_(0, labels.cpu(), draw_probability.double().cpu())
    present = share > 0
    return torch.where(present, 1 / (share.clamp_min(1e-300) * present.sum()), 0.0).float()


class CrossEntropy:
    """Plain cross-entropy, as teachers are trained with."""

    teachers = 0

    def __call__(self, logits: Tensor, draw: Draw) -> Tensor:
        """See `Objective`."""
        loss = functional.cross_entropy(logits, draw.labels)
        zero = torch.zeros_like(loss)
        return torch.stack([loss, zero, zero])

    def mix(self, epoch: int) -> None:
        """No teachers, no mix."""
        return


class Distillation:
    """L = l KD(s, RL) + (1 - l) KD(s, CL), with l = cos(e/E pi/2); one teacher: L = KD(s, RL).

    Source: Wang et al., IEEE TII 2023, doi 10.1109/TII.2023.3288208, knowledge-fused fine-tuning. The paper has no
    label term; `label_weight` adds class-balanced cross-entropy for those who want one.

    Args:
        teachers: logits of one or two teachers, the representation teacher first, each float32 [N, V, classes] by image
            and view (memory-mapped arrays will do).
        epochs: E.
        temperature: T.
        label_weight: weight of the label term.
        weights: float32 [classes] of `class_weights`; needed where `label_weight` is not 0.
    """

    def __init__(
        self,
        teachers: Sequence[np.ndarray[tuple[int, int, int], np.dtype[np.float32]]],
        epochs: int,
        temperature: float = 2.0,
        label_weight: float = 0.0,
        weights: Tensor | None = None,
    ) -> None:
        if not 1 <= len(teachers) <= 2:
            raise ValueError(f"{len(teachers)} teachers; one or two are possible")
        if label_weight and weights is None:
            raise ValueError("a label weight needs class weights")
        self.tables = tuple(teachers)
        self.teachers = len(teachers)
        self.epochs = epochs
        self.temperature = temperature
        self.label_weight = label_weight
        self.weights = weights

    def __call__(self, logits: Tensor, draw: Draw) -> Tensor:
        """See `Objective`."""
        targets = [torch.from_numpy(table[draw.images, draw.views]).to(logits.device) for table in self.tables]
        shares = [kd(logits, target, self.temperature) for target in targets]
        if len(shares) == 1:
            loss, shares = shares[0], [shares[0], torch.zeros_like(shares[0])]
        else:
            share = mix(draw.epoch, self.epochs)
            loss = share * shares[0] + (1 - share) * shares[1]
        if self.label_weight and self.weights is not None:
            self.weights = self.weights.to(logits.device)
            each = functional.cross_entropy(logits, draw.labels, reduction="none") * self.weights[draw.labels]
            loss = loss + self.label_weight * each.mean()
        return torch.stack([loss, *shares])

    def mix(self, epoch: int) -> float | None:
        """See `Objective`."""
        return mix(epoch, self.epochs) if self.teachers == 2 else None

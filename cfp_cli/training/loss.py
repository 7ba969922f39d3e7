"""The losses: cross-entropy for teachers, knowledge distillation from one or two cached teachers for students."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Indices = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True)
class Batch:
    """The images of one optimiser step.

    Attributes:
        image_indices: int64 [n], indices of the images in the training split.
        view_indices: int64 [n], the view of each image.
        labels: int64 [n], on the device of the logits.
        epoch: index of the epoch, from 0.
    """

    image_indices: Indices
    view_indices: Indices
    labels: Tensor
    epoch: int


class Objective(Protocol):
    """The loss that the training loop minimises."""

    @property
    def teachers(self) -> int:
        """The number of teachers in the loss: 0, 1 or 2."""
        ...

    def __call__(self, output: Any, batch: Batch, /) -> Tensor:
        """Return [loss, distillation loss to the first teacher, to the second], float32 [3], means over the batch.

        The loss to a teacher that the objective does not have is 0.

        Args:
            output: logits float32 [n, classes]; for `OutputDistillation` the list of all outputs.
            batch: the images that the network got.
        """
        ...

    def mix(self, epoch: int) -> float | None:
        """The weight l of the representation teacher in an epoch, or None with fewer than two teachers."""
        ...

    def validation_loss(self, logits: Tensor, /) -> float | None:
        """The distillation loss on the validation images, the mean over the teachers; None if it is not measured.

        Args:
            logits: float32 [M, classes] of the network on the validation images, and on views of them if there are any.
        """
        ...


def kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Distillation loss T^2 KL(softmax(t/T) || softmax(s/T)), the mean over the batch.

    Source: Hinton et al. 2015, as used in Wang et al., IEEE TII 2023, doi 10.1109/TII.2023.3288208.

    Args:
        student: logits float32 [n, classes].
        teacher: logits float32 [n, classes], without gradient.
        temperature: the temperature T.
    """
    divergence = functional.kl_div(
        functional.log_softmax(student / temperature, dim=1),
        functional.softmax(teacher / temperature, dim=1),
        reduction="batchmean",
    )
    return divergence * temperature**2


def mix(epoch: int, epochs: int) -> float:
    """The weight of the representation teacher: l = cos(e/E pi/2). It falls from 1 in epoch 0 towards 0."""
    return math.cos(epoch / epochs * math.pi / 2)


def class_weights(labels: Tensor, classes: int, draw_probability: Tensor) -> Tensor:
    """Weights float32 [classes] that turn the mean over drawn images into a mean over equally frequent classes.

    A draw returns an image of class c with probability p_c, so the weight of the class is 1 / (K p_c) for K classes
    with images. That is N / (K n_c) for plain shuffling and 1 for balanced sampling.

    Args:
        labels: int64 [N] of the training split.
        classes: number of classes.
        draw_probability: float64 [N], the probability that one draw of the sampler returns each image; sums to 1.
    """
    probability = torch.zeros(classes, dtype=torch.float64).index_add_(0, labels.cpu(), draw_probability.double().cpu())
    present = probability > 0
    return torch.where(present, 1 / (probability.clamp_min(1e-300) * present.sum()), 0.0).float()


class CrossEntropy:
    """Cross-entropy with the labels, the loss of teachers."""

    teachers = 0

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        """See `Objective`."""
        loss = functional.cross_entropy(logits, batch.labels)
        zero = torch.zeros_like(loss)
        return torch.stack([loss, zero, zero])

    def mix(self, epoch: int) -> None:
        """None, because there are no teachers."""
        return

    def validation_loss(self, logits: Tensor) -> None:
        """None, because there are no teachers."""
        return


class Distillation:
    """L = l KD(s, RL) + (1 - l) KD(s, CL), l = cos(e/E pi/2); with one teacher L = KD(s, RL).

    s are the student's logits, RL those of the representation teacher and CL those of the class-balanced teacher.

    Source: Wang et al., IEEE TII 2023, doi 10.1109/TII.2023.3288208, knowledge-fused fine-tuning. The paper has no
    label term; a `label_weight` above 0 adds class-balanced cross-entropy.

    Args:
        teachers: logits of one or two teachers, the representation teacher first, each float32 [N, V, classes] by image
            and view. They may be memory-mapped.
        epochs: number of epochs E.
        temperature: temperature T.
        label_weight: weight of the cross-entropy.
        weights: float32 [classes] from `class_weights`; required if `label_weight` is not 0.
        validation: logits of each teacher on the validation images, and on views of them, float32 [M, classes].
    """

    def __init__(
        self,
        teachers: Sequence[np.ndarray[tuple[int, int, int], np.dtype[np.float32]]],
        epochs: int,
        temperature: float = 2.0,
        label_weight: float = 0.0,
        weights: Tensor | None = None,
        validation: Sequence[Tensor] = (),
    ) -> None:
        if not 1 <= len(teachers) <= 2:
            raise ValueError(f"{len(teachers)} teachers; pass one or two")
        if label_weight and weights is None:
            raise ValueError("label_weight needs class weights; pass weights")
        self.tables = tuple(teachers)
        self.teachers = len(teachers)
        self.epochs = epochs
        self.temperature = temperature
        self.label_weight = label_weight
        self.weights = weights
        self.validation = tuple(validation)

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        """See `Objective`."""
        targets = [
            torch.from_numpy(table[batch.image_indices, batch.view_indices]).to(logits.device) for table in self.tables
        ]
        losses = [kd(logits, target, self.temperature) for target in targets]
        if len(losses) == 1:
            loss, losses = losses[0], [losses[0], torch.zeros_like(losses[0])]
        else:
            weight = mix(batch.epoch, self.epochs)
            loss = weight * losses[0] + (1 - weight) * losses[1]
        if self.label_weight and self.weights is not None:
            self.weights = self.weights.to(logits.device)
            weighted = functional.cross_entropy(logits, batch.labels, reduction="none") * self.weights[batch.labels]
            loss = loss + self.label_weight * weighted.mean()
        return torch.stack([loss, *losses])

    def mix(self, epoch: int) -> float | None:
        """See `Objective`."""
        return mix(epoch, self.epochs) if self.teachers == 2 else None

    def validation_loss(self, logits: Tensor) -> float | None:
        """See `Objective`. Both teachers count equally, so that the losses of different epochs can be compared."""
        if not self.validation:
            return None
        losses = [float(kd(logits.double(), each.double(), self.temperature)) for each in self.validation]
        return sum(losses) / len(losses)

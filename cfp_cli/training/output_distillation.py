"""Distillation of any outputs, such as maps of class scores and boxes. It needs no labels."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cfp_cli.data.transforms import Preprocessing
from cfp_cli.execution.evaluation_mode import evaluating
from cfp_cli.execution.outputs import tensors_of
from cfp_cli.foundation.errors import TrainingError
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.measuring.output_error import are_class_scores
from cfp_cli.models.forward_pass import is_detector, run_network
from cfp_cli.training.batch_plan import ViewSource
from cfp_cli.training.loss import Batch, kd, mix
from cfp_cli.training.teacher_cache import Table, teacher_outputs

_TINY = 1e-12
# The largest size of cached outputs in bytes.
MOST_CACHED = 1 << 30


class OutputDistillation:
    """L = l D(s, t1) + (1 - l) D(s, t2), l = cos(e/E pi/2); with one teacher L = D(s, t1).

    D is the mean over the outputs of the network. For logits, and for each pixel of a map of class scores, it is the
    distillation loss `kd`. For another output it is the mean squared error divided by the variance in the teacher.

    The outputs of a teacher are read from a cache if they are at most 1 GiB and half of the free disk space, and
    computed in each step otherwise.

    Args:
        teachers: one or two frozen networks on the device of the student, with the outputs of the student.
        views: the training images, in the preprocessing of all networks.
        cache_folder: folder of cached outputs.
        epochs: number of epochs E.
        temperature: temperature T of `kd`.
        classes: number of class names, see `are_class_scores`.
    """

    def __init__(
        self,
        teachers: Sequence[nn.Module],
        views: ViewSource,
        cache_folder: Path,
        epochs: int,
        temperature: float,
        classes: int,
        progress: Progress = SILENT,
    ) -> None:
        self.networks, self.views = tuple(teachers), views
        self.teachers, self.epochs, self.temperature = len(teachers), epochs, temperature
        self._classes = classes
        self._detector = any(map(is_detector, teachers))
        self._shapes = _shapes_of_an_image(teachers[0], views)
        self._sizes = [math.prod(shape) for shape in self._shapes]
        self._tables: list[Table] = []
        width = sum(self._sizes)
        if 0 < width * 4 * len(views) * views.views <= _cache_limit(cache_folder) // len(teachers):
            for number, network in enumerate(teachers, 1):
                device = next(network.parameters()).device
                description = f"teacher {number}"
                self._tables.append(
                    teacher_outputs(
                        network, views, width, cache_folder, device=device, progress=progress, description=description
                    )
                )

    def __call__(self, output: Sequence[Tensor], batch: Batch) -> Tensor:
        """See `Objective`; the output is a list of float32 tensors."""
        losses = [self._distance(output, targets) for targets in self._targets(batch, output[0].device)]
        if len(losses) == 1:
            return torch.stack([losses[0], losses[0], torch.zeros_like(losses[0])])
        weight = mix(batch.epoch, self.epochs)
        return torch.stack([weight * losses[0] + (1 - weight) * losses[1], *losses])

    def mix(self, epoch: int) -> float | None:
        """See `Objective`."""
        return mix(epoch, self.epochs) if self.teachers == 2 else None

    def validation_loss(self, logits: Tensor) -> None:
        """None; `output_error` measures the outputs on the validation images."""
        return

    def _targets(self, batch: Batch, device: torch.device) -> list[list[Tensor]]:
        """The outputs of each teacher."""
        if self._tables:
            rows = [torch.from_numpy(table[batch.image_indices, batch.view_indices]) for table in self._tables]
            return [
                [
                    part.reshape(-1, *shape)
                    for part, shape in zip(torch.split(each.to(device), self._sizes, 1), self._shapes, strict=True)
                ]
                for each in rows
            ]
        images = self.views.get(batch.image_indices, batch.view_indices).to(device)
        return [[each.float() for each in _run(network, images)] for network in self.networks]

    def _distance(self, output: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        return torch.stack([self._loss(value, target) for value, target in zip(output, targets, strict=True)]).mean()

    def _loss(self, value: Tensor, target: Tensor) -> Tensor:
        if are_class_scores(target, self._classes, detector=self._detector):
            # [n, C, H, W] -> [n H W, C]: one distribution a pixel.
            rows, target_rows = (each.movedim(1, -1).reshape(-1, each.shape[1]) for each in (value, target))
            return kd(rows, target_rows, self.temperature)
        error = (value - target).square().mean()
        return error / target.var(correction=0).clamp_min(_TINY)


def require_equal_outputs(
    student: nn.Module, teachers: Sequence[nn.Module], preprocessing: Sequence[Preprocessing]
) -> None:
    """Check that all networks read the same images and return tensors of the same shapes.

    Args:
        student: the student.
        teachers: its teachers.
        preprocessing: that of the student, then that of each teacher.

    Raises:
        TrainingError: a teacher differs.
    """
    own, *others = preprocessing
    device = next(student.parameters()).device
    images = torch.zeros(2, own.channels, *own.input_size, device=device)
    shapes = _shapes(student, images)
    for number, (teacher, other) in enumerate(zip(teachers, others, strict=True), 1):
        if other != own:
            raise TrainingError(
                f"teacher {number} has another input size, mean or std than the student; without labels, pass teachers "
                "with the same"
            )
        found = _shapes(teacher.to(device), images)
        if found != shapes:
            raise TrainingError(
                f"teacher {number} returns tensors of shapes {found}, the student {shapes}; pass the network that it "
                "was pruned from"
            )


def _shapes(network: nn.Module, images: Tensor) -> list[list[int]]:
    return [list(each.shape) for each in _run(network, images)]


def _run(network: nn.Module, images: Tensor) -> list[Tensor]:
    with evaluating(network), torch.no_grad():
        return tensors_of(run_network(network, images))


def _shapes_of_an_image(network: nn.Module, views: ViewSource) -> list[list[int]]:
    """Shapes of the outputs for one image; empty if an output has no entry for each image."""
    first = views.get(np.zeros(1, np.int64), np.zeros(1, np.int64)).to(next(network.parameters()).device)
    shapes = {count: _shapes(network, first.expand(count, *first.shape[1:])) for count in (2, 3)}
    if any(shape[:1] != [count] for count, each in shapes.items() for shape in each):
        return []
    return [shape[1:] for shape in shapes[2]]


def _cache_limit(folder: Path) -> int:
    """The largest size of cached outputs in bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    return min(MOST_CACHED, shutil.disk_usage(folder).free // 2)

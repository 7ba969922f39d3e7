"""A frozen teacher with its cached logits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cfp_cli.checkpoints.spec import spec_of
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.data.views import ViewStore
from cfp_cli.measuring.metrics import Metrics, compute_metrics
from cfp_cli.training.teacher_cache import Table, teacher_logits
from cfp_cli.training.training_images import TrainingImages


@dataclass(frozen=True)
class Teacher:
    """A frozen teacher.

    Attributes:
        name: `representation teacher` or `class-balanced teacher`.
        model: the network.
        preprocessing: the preprocessing of its inputs.
        logits: its logits on every view of every training image, float32 [N, V, classes].
        val_logits: its logits on the validation images and on the views of them, one view after another, float32
            [(1 + V) N, classes].
        val: its metrics on the images.
    """

    name: str
    model: nn.Module
    preprocessing: Preprocessing
    logits: Table
    val_logits: Tensor
    val: Metrics

    @classmethod
    def with_logits(
        cls, name: str, model: nn.Module, images: TrainingImages, cache_folder: Path, device: torch.device
    ) -> Teacher:
        """Compute the logits of a teacher, or read them from the cache.

        Args:
            name: name of the teacher.
            model: the network, with a spec.
            images: the training images.
            cache_folder: folder of cached logits.
            device: the device of the computation.

        Raises:
            TrainingError: the logits are not finite, or their number is not the number of classes.
        """
        preprocessing = Preprocessing.of(spec_of(model))
        classes = images.dataset.classes

        def logits_of(views: ViewStore, description: str) -> Table:
            return teacher_logits(
                model,
                views,
                len(classes),
                cache_folder,
                device=device,
                progress=images.progress,
                description=description,
            )

        validation = images.evaluation_images("val", preprocessing)
        val_logits = torch.tensor(logits_of(validation, "evaluating")[:, 0])
        val = compute_metrics(val_logits.argmax(1), validation.labels, classes)
        views = images.validation_views(preprocessing)
        if views is not None:
            table = torch.tensor(logits_of(views, "evaluating"))
            val_logits = torch.cat([val_logits, table.transpose(0, 1).flatten(0, 1)])
        logits = logits_of(images.views(preprocessing), name)
        return cls(name, model, preprocessing, logits, val_logits, val)

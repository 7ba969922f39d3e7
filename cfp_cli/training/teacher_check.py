"""Whether a teacher knows the augmented views that its student is about to learn from it."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from cfp_cli.data.images import ImageStore
from cfp_cli.metrics import evaluate
from cfp_cli.progress import SILENT, Progress
from cfp_cli.training.teacher import EVALUATION_BATCH
from cfp_cli.training.teacher_cache import Logits

# A teacher that was trained on such views is at least as good on training images as on plain validation images.
_GAP = 0.03


def check_teacher(
    name: str, teacher: nn.Module, logits: Logits, labels: Tensor, validation: ImageStore, progress: Progress = SILENT
) -> float:
    """Say so where a teacher is wrong more often on augmented training views than on plain validation images.

    Args:
        name: of the teacher, for the message.
        teacher: gives logits float32 [n, classes].
        logits: its logits of every view, float32 [N, V, classes].
        labels: int64 [N].
        validation: plain images in the teacher's own preprocessing.
        progress: told of a teacher that does not know the views.

    Returns:
        Share of the views on which the teacher is right.
    """
    right = float(np.mean(logits.argmax(axis=2) == labels.cpu().numpy()[:, None]))
    plain = evaluate(teacher, validation.batches(EVALUATION_BATCH)).accuracy
    if right < plain - _GAP:
        progress.say(
            f"warning: the {name} is right on {right:.1%} of the augmented views but on {plain:.1%} of plain "
            "validation images, and its student learns its errors; use another --augment, or a teacher trained with it"
        )
    return right

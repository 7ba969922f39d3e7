"""Whether teachers can teach: whether they know the augmented views, and every class, that students learn from them."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.measuring.metrics import Metrics
from cfp_cli.training.teacher_cache import Logits

# A teacher that was trained on such views is at least as good on training images as on plain validation images.
_GAP = 0.03


def check_views(name: str, logits: Logits, labels: Tensor, plain: Metrics, progress: Progress = SILENT) -> float:
    """Say so where a teacher is wrong more often on augmented training views than on plain validation images.

    Args:
        name: of the teacher, for the message.
        logits: its logits of every view, float32 [N, V, classes].
        labels: int64 [N].
        plain: what it comes to on plain validation images.
        progress: told of a teacher that does not know the views.

    Returns:
        Share of the views on which the teacher is right.
    """
    right = float(np.mean(logits.argmax(axis=2) == labels.cpu().numpy()[:, None]))
    if right < plain.accuracy - _GAP:
        progress.say(
            f"warning: the {name} is right on {right:.1%} of the augmented views but on {plain.accuracy:.1%} of plain "
            "validation images, and its student learns its errors; use another --augment, or a teacher trained with it"
        )
    return right


def check_classes(name: str, plain: Metrics, progress: Progress = SILENT) -> tuple[str, ...]:
    """Say so where the teacher that is to bring in the rare classes recognises no image of one.

    Args:
        name: of the teacher, for the message.
        plain: what it comes to on plain validation images.
        progress: told of the classes.

    Returns:
        The classes with validation images of which it recognises none.
    """
    missed = tuple(label for label, found in plain.per_class.items() if found.images and not found.recall)
    if missed:
        progress.say(
            f"warning: the {name} recognises no validation image of {', '.join(missed)}, which its student can hardly "
            "learn from it; train one that does, with `cfp train --sampler balanced` at a higher --lr or for longer"
        )
    return missed

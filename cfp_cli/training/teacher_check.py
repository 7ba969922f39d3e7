"""Warns about teachers that do not recognise the augmented views, or one of the classes."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from cfp_cli.foundation.naming import name_some
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.measuring.metrics import Metrics
from cfp_cli.training.teacher_cache import Table

# A teacher that was trained on such views is at least as accurate on training images as on validation images.
_LARGEST_GAP = 0.03


def check_views(name: str, logits: Table, labels: Tensor, validation: Metrics, progress: Progress = SILENT) -> float:
    """Warn if a teacher is less accurate on augmented training views than on validation images.

    Args:
        name: name of the teacher in the message.
        logits: its logits on every view, float32 [N, V, classes].
        labels: int64 [N].
        validation: its metrics on the validation split, without augmentation.
        progress: prints the warning.

    Returns:
        The accuracy of the teacher over all views.
    """
    accuracy = float(np.mean(logits.argmax(axis=2) == labels.cpu().numpy()[:, None]))
    if accuracy < validation.accuracy - _LARGEST_GAP:
        progress.say(
            f"warning: the {name} is right on {accuracy:.1%} of the augmented views but on {validation.accuracy:.1%} "
            "of the validation images, and the student learns its errors; use another --augment, or a teacher trained "
            "with this one"
        )
    return accuracy


def check_classes(name: str, validation: Metrics, progress: Progress = SILENT) -> tuple[str, ...]:
    """Warn if a teacher recognises no validation image of a class.

    Args:
        name: name of the teacher in the message.
        validation: its metrics on the validation split.
        progress: prints the warning.

    Returns:
        The classes that have validation images, but none that the teacher recognises.
    """
    missed = tuple(label for label, metrics in validation.per_class.items() if metrics.images and not metrics.recall)
    if missed:
        progress.say(
            f"warning: the {name} recognises no validation image of {name_some(missed)}, so the student learns little "
            "about it; train a teacher that does: `cfp train --sampler balanced` with a higher --lr or more epochs"
        )
    return missed

"""The mode of a network during an optimiser step."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def set_training_mode(model: nn.Module, *, student: bool, freeze_norm: bool) -> None:
    """Put a network into the mode of an optimiser step.

    A network that learns from labels is in training mode. A student is in evaluation mode, but for its batch norms: it
    has too few weights to need dropout or dropped blocks, and in training mode detectors and networks of other
    libraries return other tensors than their teachers.

    Args:
        model: the network.
        student: whether the network learns from teachers.
        freeze_norm: also keep batch norms that have statistics in evaluation mode.
    """
    model.train(not student)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.train(not (freeze_norm and module.track_running_stats))

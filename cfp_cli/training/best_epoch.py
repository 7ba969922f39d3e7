"""Chooses the epoch whose weights a run keeps, and ends a run that no longer improves."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from cfp_cli.measuring.metrics import Metrics
from cfp_cli.training.options import Select

# The network before training.
START = -1
# Stands for the distillation loss where there is none; a real one is not negative.
NO_LOSS = -1.0

# Metrics on the validation images, or without labels the error of the outputs, see `output_error`.
Validation = Metrics | float


class BestEpoch:
    """The best epoch so far, among those whose score is within one standard error of the highest.

    The error is that of the difference between two scores (after the rule of Breiman et al., 1984). Among hundreds of
    epochs, the highest score comes from chance on a few images. With teachers the best of these epochs is the one with
    the smallest distillation loss on the validation images, which counts how sure the network is of each image; without
    teachers it is the latest, which was trained longer, at a lower learning rate. If the network before training is a
    candidate, no epoch with a lower score, or with a larger distillation loss, replaces it. If the distillation loss is
    the metric, it alone decides.

    Args:
        model: the network; its copy holds the weights of the best epoch.
        select: the metric that is the score.
        patience: epochs without a new highest score, and without a new best epoch by the distillation loss, after which
            the run stops; 0 is off.
    """

    def __init__(self, model: nn.Module, select: Select, patience: int) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.epoch = -1
        self.stopped = False
        self._select = select
        self._patience = patience
        self._highest_score, self._highest_error, self._highest_epoch = -1.0, 0.0, -1
        self._start_score = 0.0
        self._score, self._loss = -1.0, NO_LOSS

    @property
    def is_empty(self) -> bool:
        """Whether no epoch was a candidate yet."""
        return self._highest_score < 0

    def update(self, candidate: nn.Module, metrics: Validation, epoch: int, loss: float | None = None) -> None:
        """Take the weights of an epoch if it is the best so far, and set `stopped` if patience has run out.

        Args:
            candidate: the network after the epoch.
            metrics: its metrics on the validation split, or without labels the error of its outputs.
            epoch: index of the epoch; `START` for the network before training.
            loss: distillation loss on the validation images; None without teachers, or without labels.
        """
        score = _score(metrics, self._select, loss)
        if score > self._highest_score:
            self._highest_epoch, self._highest_score = epoch, score
            # The factor is for the difference of two scores, each of which has this error.
            self._highest_error = 0.0
            if isinstance(metrics, Metrics) and self._select != "loss":
                self._highest_error = math.sqrt(2) * metrics.standard_error(self._select)
        if epoch == START:
            self._start_score = score
        least = max(self._highest_score - self._highest_error, self._start_score)
        # The kept epoch may have lost its place to a new highest score.
        smaller = loss is None or self._score < least or loss < self._loss
        if score >= least and smaller:
            _copy_without_subnormals(candidate, self.model)
            self.epoch, self._score, self._loss = epoch, score, NO_LOSS if loss is None else loss
        improved = self._highest_epoch if loss is None else max(self._highest_epoch, self.epoch)
        self.stopped = bool(self._patience) and epoch - improved >= self._patience

    def state(self) -> dict[str, Any]:
        """Tensors and plain data for `restore`."""
        return {
            "best": self.model.state_dict(),
            "best_epoch": self.epoch,
            "best_score": self._highest_score,
            "best_error": self._highest_error,
            "start_score": self._start_score,
            "better_epoch": self._highest_epoch,
            "kept_score": self._score,
            "kept_loss": self._loss,
            "stopped": self.stopped,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from the output of `state`."""
        self.model.load_state_dict(state["best"])
        self.epoch, self.stopped = state["best_epoch"], state["stopped"]
        self._highest_score, self._highest_error = state["best_score"], state["best_error"]
        self._highest_epoch, self._start_score = state["better_epoch"], state["start_score"]
        self._score, self._loss = state["kept_score"], state["kept_loss"]


def _score(metrics: Validation, select: Select, loss: float | None) -> float:
    """Return the number of which a larger one is better, not negative."""
    if not isinstance(metrics, Metrics):
        return 1 / (1 + metrics)
    if select == "loss":
        assert loss is not None
        return 1 / (1 + loss)
    return metrics.accuracy if select == "accuracy" else metrics.macro_f1


@torch.no_grad()
def _copy_without_subnormals(source: nn.Module, target: nn.Module) -> None:
    """Copy all weights and buffers from `source` to `target`, and replace subnormal numbers by 0.

    Subnormal numbers are too small to change a float32 output, but they slow a CPU down several times
    (github.com/FasterAI-Labs/fasterai/pull/82: 13 ms to 70 ms).
    """
    for value, copied in zip(source.state_dict().values(), target.state_dict().values(), strict=True):
        copied.copy_(_without_subnormals(value))


def _without_subnormals(value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return value
    return value.masked_fill(value.abs() < torch.finfo(value.dtype).tiny, 0.0)

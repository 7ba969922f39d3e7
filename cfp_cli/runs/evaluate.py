"""`cfp eval`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from cfp_cli.checkpoints.spec import spec_of
from cfp_cli.data.images import load_images
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.foundation.errors import DataError
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.measuring.metrics import Metrics, compute_metrics
from cfp_cli.measuring.mistakes import Mistake, worst_mistakes
from cfp_cli.measuring.predictions import predict
from cfp_cli.runs.inputs import DataInput, ModelInput, fit_to_data
from cfp_cli.runs.network_check import returns_logits, warn_of_batch_norms, warn_of_probabilities


@dataclass(frozen=True)
class Evaluated:
    """The result of `cfp eval`.

    Attributes:
        metrics: metrics of the model on the split.
        mistakes: the mistakes of each class with the highest confidence.
        pruned: whether the model is pruned.
    """

    metrics: Metrics
    mistakes: tuple[Mistake, ...]
    pruned: bool

    def to_json(self) -> dict[str, Any]:
        """Return metrics and mistakes as plain data."""
        return {**self.metrics.to_json(), "mistakes": [each.to_json() for each in self.mistakes]}


def run_evaluate(
    model: ModelInput,
    data: DataInput,
    split: str,
    *,
    worst: int = 0,
    batch_size: int = 64,
    device: torch.device,
    progress: Progress = SILENT,
) -> Evaluated:
    """Measure the metrics of a model on one split, and find its worst mistakes.

    Args:
        model: the model.
        data: the images.
        split: `train`, `val` or `test`.
        worst: largest number of mistakes to return for each class.
        batch_size: images in a batch.
        device: where to compute.
        progress: reports progress.

    Raises:
        CfpError: the model or the data cannot be used.
    """
    network = model.load(progress)
    warn_of_batch_norms(network, progress)
    if not returns_logits(network):
        raise DataError(
            f"{model.path} returns no logits [images, classes], which `cfp eval` needs; evaluate it in your own "
            "trainer, or train a head on an encoder by `cfp train DATA --init CKPT --new-head`"
        )
    dataset = data.open(progress)
    network, dataset = fit_to_data(network, dataset, model.path, progress)
    images = load_images(dataset, split, Preprocessing.of(spec_of(network)), progress=progress)
    batches = images.batches(batch_size)
    network = network.to(device)
    warn_of_probabilities(network, next(iter(images.batches(1)))[0].to(device), progress)
    predictions = predict(network, progress.track(batches, "evaluating", total=len(batches)))
    classes = spec_of(network).classes
    return Evaluated(
        compute_metrics(predictions.classes, predictions.labels, classes),
        worst_mistakes(predictions, images.paths, classes, worst),
        spec_of(network).plan is not None,
    )

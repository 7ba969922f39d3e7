"""`cfp eval`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from cfp_cli.checkpoints.spec import spec_of
from cfp_cli.data.images import load_images
from cfp_cli.data.masks import IGNORED, MaskBatches
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.foundation.errors import DataError, TrainingError
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.measuring.metrics import Metrics, compute_metrics
from cfp_cli.measuring.mistakes import Mistake, worst_mistakes
from cfp_cli.measuring.predictions import predict
from cfp_cli.measuring.segmentation import SegmentationMetrics, evaluate_segmentation
from cfp_cli.runs.inputs import DataInput, ModelInput, fit_to_data
from cfp_cli.runs.network_check import class_map_count, returns_logits, warn_of_batch_norms, warn_of_probabilities


@dataclass(frozen=True)
class Evaluated:
    """The result of `cfp eval`.

    Attributes:
        metrics: metrics of the model on the split.
        mistakes: the mistakes of each class with the highest confidence; none of a segmentation network.
        pruned: whether the model is pruned.
    """

    metrics: Metrics | SegmentationMetrics
    mistakes: tuple[Mistake, ...]
    pruned: bool

    def to_json(self) -> dict[str, Any]:
        """Return metrics and mistakes as plain data."""
        if isinstance(self.metrics, SegmentationMetrics):
            return self.metrics.to_json()
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

    A segmentation network is compared with masks beside the images, see `data.masks`.

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
        return _run_segmentation(network, model, data, split, batch_size, device, progress)
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


def _run_segmentation(
    network: nn.Module,
    model: ModelInput,
    data: DataInput,
    split: str,
    batch_size: int,
    device: torch.device,
    progress: Progress,
) -> Evaluated:
    """Compare the maps of class scores of a network with masks.

    Raises:
        CfpError: the network returns no such maps, or the images or masks cannot be used.
    """
    try:
        classes = class_map_count(network)
    except TrainingError as error:
        raise DataError(
            f"{model.path} returns no logits [images, classes], and {error}; `cfp eval` needs either: evaluate it in "
            "your own trainer, or train a head on an encoder by `cfp train DATA --init CKPT --new-head`"
        ) from error
    dataset = replace(data, labels=False).open(progress)
    network, dataset = fit_to_data(network, dataset, model.path, progress)
    images = load_images(dataset, split, Preprocessing.of(spec_of(network)), progress=progress)
    batches = MaskBatches(images, batch_size, classes)
    metrics = evaluate_segmentation(network.to(device), batches, progress=progress)
    present = [name for name, each in metrics.per_class.items() if each.pixels]
    if len(present) == 1:
        progress.say(
            f"warning: all pixels that count are of class '{present[0]}', so the figures say little; a pixel of "
            f"{IGNORED} is not counted: save masks of class indices, such as 0 and 1"
        )
    return Evaluated(metrics, (), spec_of(network).plan is not None)

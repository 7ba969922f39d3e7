"""`cfp eval`."""

from __future__ import annotations

import torch

from cfp_cli.checkpoints.spec import spec_of
from cfp_cli.data.images import load_images
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.measuring.metrics import Metrics, evaluate
from cfp_cli.runs.inputs import DataInput, ModelInput, fit_classes


def run_evaluate(
    model: ModelInput,
    data: DataInput,
    split: str,
    *,
    batch_size: int = 64,
    device: torch.device,
    progress: Progress = SILENT,
) -> Metrics:
    """Measure the metrics of a model on one split.

    Raises:
        CfpError: the model or the data cannot be used.
    """
    network = model.load(progress)
    dataset = data.open(progress)
    network, dataset = fit_classes(network, dataset, model.path, progress)
    images = load_images(dataset, split, Preprocessing.of(spec_of(network)), progress=progress)
    return evaluate(network.to(device), images.batches(batch_size), progress=progress)

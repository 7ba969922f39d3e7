"""The original on the validation images, with which smaller networks are compared."""

from __future__ import annotations

from torch import Tensor, nn

from cfp_cli.checkpoints.spec import spec_of
from cfp_cli.data.dataset import Dataset
from cfp_cli.data.images import load_images
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.foundation.progress import Progress
from cfp_cli.measuring.loss_rule import Compared
from cfp_cli.measuring.metrics import Metrics, compute_metrics
from cfp_cli.measuring.predictions import Predictions, predict


class Validation:
    """The predictions of the original on the validation images.

    The predictions of the original are the labels of images that have none.

    Args:
        original: the network, with a spec.
        dataset: the images, with the classes in the order of the network's logits.
        batch_size: images of a batch.
        progress: reports progress.

    Attributes:
        metrics: metrics of the original.
    """

    def __init__(self, original: nn.Module, dataset: Dataset, batch_size: int, progress: Progress) -> None:
        spec = spec_of(original)
        self._progress = progress
        self._batches = load_images(dataset, "val", Preprocessing.of(spec), progress=progress).batches(batch_size)
        self._original = self._predict(original)
        self._classes = spec.classes
        self._labels: Tensor = self._original.labels if dataset.labelled else self._original.classes
        self.metrics: Metrics = compute_metrics(self._original.classes, self._labels, spec.classes)

    def compare(self, network: nn.Module) -> Compared:
        """Compare a network with the original."""
        predicted = self._predict(network)
        return Compared.of(self._original.classes, predicted.classes, self._labels, self._classes)

    def _predict(self, network: nn.Module) -> Predictions:
        return predict(network, self._progress.track(self._batches, "evaluating", total=len(self._batches)))

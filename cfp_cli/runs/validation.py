"""The original on the validation images and on views of them, with which smaller networks are compared."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cfp_cli.checkpoints.spec import spec_of
from cfp_cli.data.choices import Augment
from cfp_cli.data.dataset import Dataset
from cfp_cli.data.images import Batches, load_images
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.data.views import ViewBatches, ViewStore
from cfp_cli.foundation.progress import Progress
from cfp_cli.measuring.compared import Compared, ComparedViews
from cfp_cli.measuring.metrics import Metrics, compute_metrics
from cfp_cli.measuring.predictions import Predictions, predict

# Augmented views of each validation image: VIEWS, or as many as make VIEWED of all images, but one at least.
VIEWS, VIEWED = 8, 2048
# The original does not know the views if its accuracy on them is lower by more than this.
_LARGEST_GAP = 0.03


class Validation:
    """The predictions of the original on the validation images, and on the views of them that fine-tuning would use.

    One error on a few hundred images is chance. The views say for each image how near it is to an error. They are not
    used if the original does not know them, which is said.

    The predictions of the original are the labels of images that have none.

    Args:
        original: the network, with a spec.
        dataset: the images, with the classes in the order of the network's logits.
        batch_size: images of a batch.
        augment: the augmentation of the views.
        seed: seed of the views.
        progress: reports progress.

    Attributes:
        metrics: metrics of the original on the images themselves.
        views: number of views of each image that are compared; the image itself is one of them.
    """

    def __init__(
        self,
        original: nn.Module,
        dataset: Dataset,
        batch_size: int,
        augment: Augment,
        seed: int,
        progress: Progress,
    ) -> None:
        spec = spec_of(original)
        preprocessing = Preprocessing.of(spec)
        self._progress, self._classes, self._labelled = progress, spec.classes, dataset.labelled
        store = load_images(dataset, "val", preprocessing, progress=progress)
        self._batches = store.batches(batch_size)
        self._original = self._predict(original, self._batches)
        self._labels = self._labels_of(self._original)
        self.metrics: Metrics = compute_metrics(self._original.classes, self._labels, spec.classes)
        self.views = 1
        self._views: ViewBatches | None = None
        if augment == "none":
            return
        count = max(1, min(VIEWS, VIEWED // len(store)))
        views = ViewStore(
            dataset.split("val"), preprocessing, augment, count, seed, broken=dataset.broken, progress=progress
        )
        found = self._predict(original, views.batches(batch_size))
        # Without labels the views of an image are taken to have its class.
        labels = found.labels if dataset.labelled else self._labels.repeat(views.views)
        accuracy = float((found.classes == labels).double().mean())
        if accuracy < self.metrics.accuracy - _LARGEST_GAP:
            progress.say(
                f"the original is right on {accuracy:.1%} of flipped, turned and cropped validation images, but on "
                f"{self.metrics.accuracy:.1%} of these images as they are, so only these are compared"
            )
            return
        self.views = 1 + views.views
        self._views = views.batches(batch_size)
        self._original_views = self._beside(self._original.classes, found.classes)
        self._labels_views = self._beside(self._labels, self._labels_of(found))

    def compare(self, network: nn.Module) -> Compared:
        """Compare a network with the original."""
        predicted = self._predict(network, self._batches)
        on_views = None
        if self._views is not None:
            small = self._beside(predicted.classes, self._predict(network, self._views).classes)
            on_views = ComparedViews.of(self._original_views, small, self._labels_views, self._classes)
        return Compared.of(self._original.classes, predicted.classes, self._labels, self._classes, on_views)

    def _beside(self, images: Tensor, views: Tensor) -> Tensor:
        """Values of the images and of their views, [1 + views, N]."""
        return torch.cat([images, views]).view(-1, len(images))

    def _labels_of(self, original: Predictions) -> Tensor:
        return original.labels if self._labelled else original.classes

    def _predict(self, network: nn.Module, batches: Batches | ViewBatches) -> Predictions:
        return predict(network, self._progress.track(batches, "evaluating", total=len(batches)))

"""The original on the validation images and on views of them, with which smaller networks are compared."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from cfp_cli.checkpoints.spec import spec_of
from cfp_cli.data.choices import Augment
from cfp_cli.data.dataset import Dataset
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.data.views import ViewBatches, ViewStore
from cfp_cli.foundation.progress import Progress
from cfp_cli.measuring.compared import Compared
from cfp_cli.measuring.metrics import Metrics, compute_metrics
from cfp_cli.measuring.predictions import predict
from cfp_cli.training.teacher_cache import teacher_logits

# Augmented views of each validation image: VIEWS, or as many as make VIEWED of all images, but one at least.
VIEWS, VIEWED = 8, 2048
# The original does not know the views if its accuracy on them is lower by more than this.
_LARGEST_GAP = 0.03


class Validation:
    """The predictions of the original on the validation images, and on the views of them that fine-tuning would use.

    One error on a few hundred images is chance. The views say for each image how near it is to an error. They are not
    used if the original does not know them, which is said.

    The predictions of the original are the labels of images that have none. They come from the cache of teachers'
    logits, so a repeated command does not compute them again, and a fine-tuning with the original as its teacher reads
    them too.

    Args:
        original: the network, with a spec.
        dataset: the images, with the classes in the order of the network's logits.
        batch_size: images of a batch of the smaller networks.
        augment: the augmentation of the views.
        seed: seed of the views.
        cache: folder of teachers' logits; all processes take part.
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
        cache: Path,
        progress: Progress,
    ) -> None:
        spec = spec_of(original)
        preprocessing = Preprocessing.of(spec)
        self._progress, self._classes = progress, spec.classes
        items = dataset.split("val")
        images = ViewStore(items, preprocessing, "none", broken=dataset.broken, progress=progress)
        self._images = images.batches(batch_size)
        self._original = _classes(original, images, cache, progress)
        self._labels = images.labels[None] if dataset.labelled else self._original
        self.metrics: Metrics = compute_metrics(self._original[0], self._labels[0], spec.classes)
        self.views = 1
        self._views: ViewBatches | None = None
        if augment == "none":
            return
        count = max(1, min(VIEWS, VIEWED // len(images)))
        views = ViewStore(items, preprocessing, augment, count, seed, broken=dataset.broken, progress=progress)
        found = _classes(original, views, cache, progress)
        # Without labels the views of an image are taken to have its class.
        accuracy = float((found == self._labels).double().mean())
        if accuracy < self.metrics.accuracy - _LARGEST_GAP:
            progress.say(
                f"the original is right on {accuracy:.1%} of flipped, turned and cropped validation images, but on "
                f"{self.metrics.accuracy:.1%} of these images as they are, so only these are compared"
            )
            return
        self.views = 1 + views.views
        self._views = views.batches(batch_size)
        self._original = torch.cat([self._original, found])
        self._labels = torch.cat([self._labels, self._labels.expand(len(found), -1) if dataset.labelled else found])

    def compare(self, network: nn.Module) -> Compared:
        """Compare a network with the original."""
        predicted = self._predict(network, self._images)
        if self._views is not None:
            predicted = torch.cat([predicted, self._predict(network, self._views)])
        return Compared.of(self._original, predicted, self._labels, self._classes)

    def _predict(self, network: nn.Module, batches: ViewBatches) -> Tensor:
        """Predicted classes of the views of each image, int64 [V, N]."""
        found = predict(network, self._progress.track(batches, "evaluating", total=len(batches)))
        return found.classes.view(-1, self._labels.shape[1])


def _classes(original: nn.Module, views: ViewStore, cache: Path, progress: Progress) -> Tensor:
    """The classes that the original predicts for all views, int64 [V, N]; its logits are cached."""
    device = next((parameter.device for parameter in original.parameters()), "cpu")
    classes = len(spec_of(original).classes)
    logits = teacher_logits(original, views, classes, cache, device=device, progress=progress, description="evaluating")
    return torch.from_numpy(logits.argmax(axis=2)).T

"""The networks of a report on the test images: predictions, metrics, and the worst mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from torch import nn

from cfp_cli.checkpoints.spec import spec_of
from cfp_cli.data.dataset import Dataset
from cfp_cli.data.images import ImageStore, load_images
from cfp_cli.data.raster import as_colours
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.foundation.progress import Progress
from cfp_cli.measuring.intervals import Interval, change_of_accuracy
from cfp_cli.measuring.metrics import Metrics, compute_metrics
from cfp_cli.measuring.mistakes import Mistake, worst_mistakes
from cfp_cli.measuring.predictions import Predictions, predict
from cfp_cli.report.page_data import MistakeImage
from cfp_cli.runs.directory import Run
from cfp_cli.runs.inputs import DataInput
from cfp_cli.runs.records import FinetuneRecord

# Mistakes shown in all.
MOST = 60


class Tested(NamedTuple):
    """The images of the test split, and the predictions of a network."""

    images: ImageStore
    predictions: Predictions


def accuracy_change(tested: Sequence[Tested | None]) -> Interval | None:
    """Return the interval of the change of accuracy between two networks; None unless both saw the same images."""
    first, last = tested
    if first is None or last is None or first.images.paths != last.images.paths:
        return None
    return change_of_accuracy(first.predictions.classes, last.predictions.classes, first.predictions.labels)


def shown_mistakes(tested: Tested | None, dataset: Dataset, count: int) -> tuple[tuple[Mistake, ...], int | None]:
    """Return the mistakes to show and the number of all mistakes; of too many, those with most confidence are shown."""
    if tested is None:
        return (), None
    predictions = tested.predictions
    mistakes = worst_mistakes(predictions, tested.images.paths, dataset.classes, count)
    shown = sorted(mistakes, key=lambda each: -each.confidence)[:MOST]
    return tuple(each for each in mistakes if each in shown), int((predictions.classes != predictions.labels).sum())


def mistake_images(mistakes: Sequence[Mistake], tested: Tested | None, dataset: Dataset) -> tuple[MistakeImage, ...]:
    """Return the images of mistakes, with their paths from the folder of the data."""
    if tested is None:
        return ()
    pixels = tested.images.images
    return tuple(
        MistakeImage(
            str(each.path.relative_to(dataset.root) if each.path.is_relative_to(dataset.root) else each.path),
            each.label,
            each.predicted,
            each.confidence,
            as_colours(pixels[each.index].numpy()),
        )
        for each in mistakes
    )


class TestSplit:
    """Test metrics by file hash: recorded ones for the same file, images and splits, else measured now."""

    def __init__(self, run: Run, data: DataInput, dataset: Dataset, batch_size: int, progress: Progress) -> None:
        self.dataset, self.batch_size, self.progress = dataset, batch_size, progress
        self.by_hash: dict[str, Metrics] = {}
        self._tested: dict[str, Tested] = {}
        self._images: dict[Preprocessing, ImageStore] = {}
        record = run.latest(FinetuneRecord)
        # The same images under another path are the same data; another seed may have made other splits of them.
        current = data.record(dataset)
        if record is None or record.inputs.data is None or replace(record.inputs.data, path=current.path) != current:
            return
        if record.metrics.test is not None:
            self.by_hash[record.outputs["finetuned"].sha256] = record.metrics.test
        for teacher, metrics in zip(record.inputs.teachers, record.metrics.teachers, strict=True):
            if metrics is not None:
                self.by_hash[teacher.sha256] = metrics

    def of(self, model: nn.Module, digest: str) -> Metrics | None:
        """Return metrics on the test split; None if the data have none."""
        if digest not in self.by_hash:
            tested = self.run(model, digest)
            if tested is None:
                return None
            predictions = tested.predictions
            self.by_hash[digest] = compute_metrics(predictions.classes, predictions.labels, self.dataset.classes)
        return self.by_hash[digest]

    def run(self, model: nn.Module, digest: str) -> Tested | None:
        """Return the images of the test split and the network's predictions of them; None if the data have none."""
        if "test" not in self.dataset.splits:
            return None
        if digest not in self._tested:
            preprocessing = Preprocessing.of(spec_of(model))
            if preprocessing not in self._images:
                self._images[preprocessing] = load_images(self.dataset, "test", preprocessing, progress=self.progress)
            images = self._images[preprocessing]
            batches = images.batches(self.batch_size)
            shown = self.progress.track(batches, "evaluating", total=len(batches))
            self._tested[digest] = Tested(images, predict(model, shown))
        return self._tested[digest]

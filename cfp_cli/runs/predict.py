"""`cfp predict`: the class of each image, from a checkpoint or an exported file."""

from __future__ import annotations

import bisect
import csv
import io
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from cfp_cli.checkpoints.spec import ModelSpec, spec_of
from cfp_cli.data.bit_depth import chosen_bit_depth
from cfp_cli.data.broken import BrokenImages
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.data.unlabelled import Batch, ImageStream, find_images
from cfp_cli.exporting.open_file import format_of, open_export
from cfp_cli.foundation.errors import DataError
from cfp_cli.foundation.files import write_atomic
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.measuring.predictions import finite_logits
from cfp_cli.runs.inputs import ModelInput
from cfp_cli.runs.network_check import SOFTMAX_TWICE, are_probabilities, warn_of_batch_norms
from cfp_cli.runs.output_path import check_output

# Unsure predictions that are kept to be shown.
MOST_UNSURE = 20

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """The prediction of one image.

    Attributes:
        path: the image file.
        label: the predicted class.
        confidence: its probability.
        probabilities: the probability of each class, in the order of the logits.
        unsure: whether the confidence is below the threshold.
    """

    path: Path
    label: str
    confidence: float
    probabilities: tuple[float, ...]
    unsure: bool

    def to_json(self, classes: Sequence[str]) -> dict[str, Any]:
        """Return the prediction as plain data."""
        return {
            "path": str(self.path),
            "class": self.label,
            "confidence": self.confidence,
            "unsure": self.unsure,
            "probabilities": dict(zip(classes, self.probabilities, strict=True)),
        }


@dataclass
class PredictedClass:
    """The images of one predicted class.

    Attributes:
        name: the class.
        images: their number.
        confidence: the sum of their confidences.
        unsure: how many of them are unsure.
    """

    name: str
    images: int = 0
    confidence: float = 0.0
    unsure: int = 0


@dataclass(frozen=True)
class Predicted:
    """The predictions of all images.

    Attributes:
        classes: class names, in the order of the logits.
        rows: one prediction for each image that can be read, in the order of the images; empty if they are not kept.
        summary: one entry for each class.
        most_unsure: the unsure predictions with the lowest confidence, at most 20, the lowest first.
        unreadable: images that cannot be read.
    """

    classes: tuple[str, ...]
    rows: tuple[Prediction, ...]
    summary: tuple[PredictedClass, ...]
    most_unsure: tuple[Prediction, ...]
    unreadable: tuple[Path, ...]

    @property
    def images(self) -> int:
        """Number of images that can be read."""
        return sum(each.images for each in self.summary)

    def to_json(self) -> list[dict[str, Any]]:
        """Return the predictions as plain data."""
        return [row.to_json(self.classes) for row in self.rows]


def run_predict(
    model: ModelInput,
    sources: Sequence[Path],
    *,
    threshold: float = 0.0,
    out: Path | None = None,
    keep_rows: bool = True,
    max_bad: float = 0.01,
    bit_depth: int | None = None,
    batch_size: int = 64,
    device: torch.device,
    progress: Progress = SILENT,
) -> Predicted:
    """Predict the class of each image.

    Args:
        model: a checkpoint, or a file that `cfp export` wrote.
        sources: folders, image files, globs or list files; see `find_images`.
        threshold: predictions with a smaller confidence are marked as unsure.
        out: CSV file to write. Each batch is written as soon as it is computed.
        keep_rows: return all predictions. Without it, any number of images fits in memory.
        max_bad: largest accepted fraction of images that cannot be read.
        bit_depth: number of bits of white in images of more than 8 bits, where the model does not store it; None
            chooses it from a sample.
        batch_size: images in a batch.
        device: where a checkpoint is computed; exported files run on the CPU.
        progress: reports progress and images that cannot be read.

    Raises:
        CfpError: the model or the images cannot be used.
    """
    if out is not None:
        class_files = [model.class_file] if model.class_file is not None else []
        check_output(out, inputs=[model.path, *sources, *class_files], option="--csv")
    paths = find_images(sources)
    network, spec = _open(model, device, progress)
    if spec.bit_depth is None:
        reason = f"warning: the images have more than 8 bits and {model.path} stores no bit depth"
        spec = replace(spec, bit_depth=bit_depth or chosen_bit_depth(paths, reason, progress))
    broken = BrokenImages(len(paths), max_bad)
    stream = ImageStream(paths, Preprocessing.of(spec), batch_size, broken, progress)
    summary = {name: PredictedClass(name) for name in spec.classes}
    rows: list[Prediction] = []
    unsure: list[Prediction] = []

    def predictions() -> Iterator[Prediction]:
        found = False
        for row in _predictions(model.path, network, stream, spec.classes, threshold, progress):
            found = True
            of_class = summary[row.label]
            of_class.images += 1
            of_class.confidence += row.confidence
            of_class.unsure += row.unsure
            if keep_rows:
                rows.append(row)
            if row.unsure and (len(unsure) < MOST_UNSURE or row.confidence < unsure[-1].confidence):
                bisect.insort(unsure, row, key=lambda each: each.confidence)
                del unsure[MOST_UNSURE:]
            yield row
        if not found:
            raise DataError(f"none of {len(paths)} images can be read, such as {paths[0]}; replace them")

    if out is not None:
        write_atomic(out, lambda file: _write_csv(file, spec.classes, predictions()))
    else:
        for _ in predictions():
            pass
    return Predicted(spec.classes, tuple(rows), tuple(summary.values()), tuple(unsure), broken.paths)


def _predictions(
    path: Path,
    network: Callable[[Tensor], Tensor],
    stream: Iterable[Batch],
    classes: Sequence[str],
    threshold: float,
    progress: Progress,
) -> Iterator[Prediction]:
    """Yield the prediction of each image; `path` is the file of the network."""
    first = True
    for batch in stream:
        with torch.inference_mode():
            logits = finite_logits(network, batch.images)
        if logits.shape[1] != len(classes):
            raise DataError(
                f"{path} returns {logits.shape[1]} logits, but it names {len(classes)} classes; export or save it again"
            )
        if first and are_probabilities(logits):
            progress.say(f"warning: {SOFTMAX_TWICE}")
        first = False
        best = zip(logits.argmax(1).tolist(), logits.softmax(1).tolist(), strict=True)
        for image, (index, probabilities) in zip(batch.paths, best, strict=True):
            confidence = probabilities[index]
            yield Prediction(image, classes[index], confidence, tuple(probabilities), confidence < threshold)


def _write_csv(file: BinaryIO, classes: Sequence[str], rows: Iterable[Prediction]) -> None:
    """Write a header and one line per image: path, class, confidence, unsure, probability of each class."""

    def write(values: Sequence[object]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(values)
        # Names of files that are not UTF-8 keep their bytes.
        file.write(line.getvalue().encode("utf-8", "surrogateescape"))

    write(["path", "class", "confidence", "unsure", *(f"p({name})" for name in classes)])
    for row in rows:
        numbers = [f"{value:.6f}" for value in row.probabilities]
        write([row.path, row.label, f"{row.confidence:.6f}", "unsure" if row.unsure else "", *numbers])


def _open(model: ModelInput, device: torch.device, progress: Progress) -> tuple[Callable[[Tensor], Tensor], ModelSpec]:
    format = format_of(model.path)
    if format is not None:
        run, spec = open_export(model.path, format, unsafe_pickle=model.unsafe_pickle)
        LOGGER.info("read %s: %s, %d classes", model.path, spec.arch, len(spec.classes))
        return run, spec
    network = model.load(progress).to(device).eval()
    warn_of_batch_norms(network, progress)
    return lambda images: network(images.to(device)), spec_of(network)

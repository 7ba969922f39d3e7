"""`cfp predict`: the class of each image, from a checkpoint or an exported file."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cfp_cli.checkpoints.spec import ModelSpec, spec_of
from cfp_cli.data.bit_depth import chosen_bit_depth
from cfp_cli.data.broken import BrokenImages
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.data.unlabelled import ImageStream, find_images
from cfp_cli.exporting.open_file import format_of, open_export
from cfp_cli.foundation.errors import DataError
from cfp_cli.foundation.files import write_bytes
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.measuring.predictions import finite_logits
from cfp_cli.runs.inputs import ModelInput
from cfp_cli.runs.network_check import warn_of_batch_norms
from cfp_cli.runs.output_path import check_output

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


@dataclass(frozen=True)
class Predicted:
    """The predictions of all images.

    Attributes:
        classes: class names, in the order of the logits.
        rows: one prediction for each image that can be read, in the order of the images.
        unreadable: images that cannot be read.
    """

    classes: tuple[str, ...]
    rows: tuple[Prediction, ...]
    unreadable: tuple[Path, ...]

    def to_json(self) -> list[dict[str, Any]]:
        """Return the predictions as plain data."""
        return [row.to_json(self.classes) for row in self.rows]


def run_predict(
    model: ModelInput,
    sources: Sequence[Path],
    *,
    threshold: float = 0.0,
    out: Path | None = None,
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
        out: CSV file to write.
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
        check_output(out, inputs=[model.path, *sources])
    paths = find_images(sources)
    network, spec = _open(model, device, progress)
    if spec.bit_depth is None:
        reason = f"warning: the images have more than 8 bits and {model.path} stores no bit depth"
        spec = replace(spec, bit_depth=bit_depth or chosen_bit_depth(paths, reason, progress))
    broken = BrokenImages(len(paths), max_bad)
    rows = []
    stream = ImageStream(paths, Preprocessing.of(spec), batch_size, broken, progress)
    with torch.inference_mode():
        for batch in stream:
            logits = finite_logits(network, batch.images)
            if logits.shape[1] != len(spec.classes):
                raise DataError(
                    f"{model.path} returns {logits.shape[1]} logits, but it names {len(spec.classes)} classes; "
                    "export or save it again"
                )
            best = zip(logits.argmax(1).tolist(), logits.softmax(1).tolist(), strict=True)
            for path, (index, probabilities) in zip(batch.paths, best, strict=True):
                confidence = probabilities[index]
                label = spec.classes[index]
                rows.append(Prediction(path, label, confidence, tuple(probabilities), confidence < threshold))
    if not rows:
        raise DataError(f"none of {len(paths)} images can be read, such as {paths[0]}; replace them")
    predicted = Predicted(spec.classes, tuple(rows), broken.paths)
    if out is not None:
        write_csv(out, predicted)
    return predicted


def write_csv(path: Path, predicted: Predicted) -> None:
    """Write a header and one line per image, atomically: path, class, confidence, unsure, probability of each class."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "class", "confidence", "unsure", *(f"p({name})" for name in predicted.classes)])
    for row in predicted.rows:
        numbers = [f"{value:.6f}" for value in row.probabilities]
        writer.writerow([row.path, row.label, f"{row.confidence:.6f}", "unsure" if row.unsure else "", *numbers])
    # Names of files that are not UTF-8 keep their bytes.
    write_bytes(path, text.getvalue().encode("utf-8", "surrogateescape"))


def _open(model: ModelInput, device: torch.device, progress: Progress) -> tuple[Callable[[Tensor], Tensor], ModelSpec]:
    format = format_of(model.path)
    if format is not None:
        run, spec = open_export(model.path, format, unsafe_pickle=model.unsafe_pickle)
        LOGGER.info("read %s: %s, %d classes", model.path, spec.arch, len(spec.classes))
        return run, spec
    network = model.load(progress).to(device).eval()
    warn_of_batch_norms(network, progress)
    return lambda images: network(images.to(device)), spec_of(network)

"""The data of a report page. `cfp_cli.runs.report` collects them from a run, `page.py` renders them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cfp_cli.exporting.benchmark import Benchmark
from cfp_cli.measuring.intervals import Interval
from cfp_cli.measuring.metrics import Metrics
from cfp_cli.report.frontier import FrontierPoint
from cfp_cli.training.history import EpochRow


@dataclass(frozen=True)
class ModelFacts:
    """One network of the run.

    Attributes:
        role: `original`, `pruned` or `fine-tuned`.
        path: the checkpoint.
        sha256: hash of the checkpoint.
        params: number of parameters.
        macs: multiply-adds of convolutions and linear layers for one image.
        bytes: size of the checkpoint.
        stored: type of its numbers, such as `float32`.
        metrics: metrics on the test split; None if the data have none.
    """

    role: str
    path: str
    sha256: str
    params: int
    macs: int
    bytes: int
    stored: str
    metrics: Metrics | None


@dataclass(frozen=True)
class Layer:
    """One scored channel set.

    Attributes:
        name: name of the set.
        modules: modules that produce its channels, in network order; several where layers are coupled.
        clusters: cluster of each channel, int32 [C], 1-based.
        order: channel indices by cluster, in each cluster from the first to keep to the first to drop, int64 [C].
        richness: richness of each channel, float64 [C].
        distance: condensed distances between the channels, float32 [C(C-1)/2].
        kept: whether each channel is kept, bool [C]; None before pruning.
        saturated: scores that are equal for all channels of a tap, as `score (tap)`.
        maps: feature map of each channel on the example image, float32 [C, H, W].
    """

    name: str
    modules: tuple[str, ...]
    clusters: NDArray[np.int32]
    order: NDArray[np.int64]
    richness: NDArray[np.float64]
    distance: NDArray[np.float32]
    kept: NDArray[np.bool_] | None
    saturated: tuple[str, ...]
    maps: NDArray[np.float32]

    @property
    def channels(self) -> int:
        """Number of channels before pruning."""
        return len(self.order)


@dataclass(frozen=True)
class Width:
    """Number of channels of one set before and after pruning, whether it was scored or not.

    Attributes:
        name: name of the set.
        before: channels of the original network.
        after: channels of the pruned network.
        frozen: why the set cannot be pruned; empty if it can.
    """

    name: str
    before: int
    after: int
    frozen: str


@dataclass(frozen=True)
class Example:
    """The image whose feature maps are shown.

    Attributes:
        name: name of its file.
        label: its class; empty if unknown.
        pixels: the resized image before normalisation, uint8 [3, H, W].
    """

    name: str
    label: str
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class MistakeImage:
    """A test image that the last network classifies wrongly.

    Attributes:
        name: path of its file, from the folder of the images.
        label, predicted: its true and its predicted class.
        confidence: probability of the predicted class.
        pixels: the resized image before normalisation, uint8 [3, H, W].
    """

    name: str
    label: str
    predicted: str
    confidence: float
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class Provenance:
    """A command of the run, as its record holds it.

    Attributes:
        command: name of the command.
        line: the command line.
        arguments: options, as plain data.
        seed: seed of its random choices.
        inputs, outputs: path and SHA-256 of each file, by name.
        seconds: how long it took.
        versions: versions of cfp and of the packages it depends on.
        finished: date and time in UTC.
    """

    command: str
    line: Sequence[str]
    arguments: Mapping[str, Any]
    seed: int
    inputs: Mapping[str, tuple[str, str]]
    outputs: Mapping[str, tuple[str, str]]
    seconds: float
    versions: Mapping[str, str]
    finished: str


@dataclass(frozen=True)
class PageData:
    """All data of the page.

    Attributes:
        arch: architecture of the original network.
        classes: class names, in the order of the logits.
        data: folder of the images.
        test_images: number of images in the test split.
        similarity, richness: names of the criteria.
        scored_images: number of images that the channels were scored on.
        models: the networks, the original first.
        teachers: test metrics of the teachers by name; empty if they were not measured.
        widths: channels of each set before and after; empty before pruning.
        layers: scored channel sets, in network order.
        example: the image of the feature maps.
        max_abs_logit_error: largest logit difference in the proof of the rebuild; None before pruning.
        epochs: epochs of the fine-tuning; empty without one.
        best_epoch: the epoch whose weights were kept, from 0; None without fine-tuning, or if the weights from before
            it were kept.
        latency: latency of the original and of the final network; empty if it was not measured.
        lineage: how the final network was made, oldest first, from its checkpoint.
        records: commands of the run except earlier reports, oldest first.
        versions: versions of cfp and of its packages, for this page.
        left_out: why a section is missing, by the section's id.
        change: 95 % interval of the change of the test accuracy, from the original to the last network on the same
            images; None if it was not measured.
        mistakes: the worst mistakes of the last network on the test images, by true class.
        wrong: number of test images that it classifies wrongly; None if it was not measured.
        repeated: number of test images whose content is also among the training or validation images.
        written: date and time of this page in UTC, ISO 8601.
        frontier: the candidates of `cfp shrink`, if it made the last network.
        max_loss: the loss that it allowed, in points.
        views: views of each validation image that the losses of the candidates are means over.
        chosen_by_loss: whether the kept epoch is the one with the smallest distillation loss of all.
    """

    arch: str
    classes: tuple[str, ...]
    data: str
    test_images: int
    similarity: str
    richness: str
    scored_images: int
    models: tuple[ModelFacts, ...]
    teachers: Mapping[str, Metrics]
    widths: tuple[Width, ...]
    layers: tuple[Layer, ...]
    example: Example
    max_abs_logit_error: float | None
    epochs: tuple[EpochRow, ...]
    best_epoch: int | None
    latency: tuple[Benchmark, ...]
    lineage: Sequence[Mapping[str, Any]]
    records: Sequence[Provenance]
    versions: Mapping[str, str]
    left_out: Mapping[str, str]
    change: Interval | None
    mistakes: tuple[MistakeImage, ...]
    wrong: int | None
    repeated: int
    written: str
    frontier: tuple[FrontierPoint, ...] = ()
    max_loss: float = 0.0
    views: int = 1
    chosen_by_loss: bool = False

    @property
    def original(self) -> ModelFacts:
        """The scored network."""
        return self.models[0]

    @property
    def shown(self) -> ModelFacts:
        """The last network of the run; before pruning, the original."""
        return self.models[-1]

    @property
    def final(self) -> ModelFacts | None:
        """The last network of the run; None before pruning."""
        return self.models[-1] if len(self.models) > 1 else None

"""What a report page tells, as plain data: gathered from a run by its step, laid out by the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cfp_cli.exporting.benchmark import Benchmark
from cfp_cli.measuring.metrics import Metrics
from cfp_cli.training.history import EpochRow


@dataclass(frozen=True)
class ModelFacts:
    """One network of the run.

    Attributes:
        role: `original`, `pruned` or `fine-tuned`.
        path: its file.
        sha256: of the file.
        params: parameters.
        macs: multiply-adds of convolutions and linear layers for one image.
        bytes: size of the file.
        metrics: on the test split; None without one.
    """

    role: str
    path: str
    sha256: str
    params: int
    macs: int
    bytes: int
    metrics: Metrics | None


@dataclass(frozen=True)
class Layer:
    """One scored channel set.

    Attributes:
        name: of the set.
        modules: what makes its channels, in network order; more than one where layers are coupled.
        clusters: cluster of every channel [C], 1-based.
        order: channels by cluster and, inside each, from the first to keep to the first to drop, int64 [C].
        richness: detail richness of every channel, float64 [C].
        distance: condensed distances of the channels, float32 [C(C-1)/2].
        kept: which channels stay, bool [C]; None where nothing was pruned yet.
        saturated: scores that do not tell the channels of a tap apart, as `score (tap)`.
        maps: feature maps of the channels on the example image, float32 [C, H, W].
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
    """Channels of one set before and after, scored or not.

    Attributes:
        name: of the set.
        before: channels of the original.
        after: channels of the pruned network.
        frozen: why it may not be pruned; empty where it may.
    """

    name: str
    before: int
    after: int
    frozen: str


@dataclass(frozen=True)
class Example:
    """The image whose feature maps are shown.

    Attributes:
        name: of its file.
        label: its class; empty where that is not known.
        pixels: uint8 [3, H, W], as the network sees it before it is normalised.
    """

    name: str
    label: str
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
class Contents:
    """Everything on the page.

    Attributes:
        arch: architecture of the original.
        classes: class names, in the order of the logits.
        data: the folder of the images.
        test_images: images of the test split.
        similarity, richness: names of the criteria.
        scored_images: images that the channels were scored on.
        models: the networks, the original first.
        teachers: test metrics of the fine-tuning's teachers by name; empty where they were not measured.
        widths: channels by set; empty where nothing was pruned.
        layers: scored channel sets, in network order.
        example: the image of the feature maps.
        max_abs_logit_error: the proof's error; None where nothing was pruned.
        epochs: of the fine-tuning; empty without one.
        best_epoch: the epoch whose weights were kept, from 0; None without fine-tuning.
        latency: of the original and of the final network; empty where it was not measured.
        lineage: the steps that made the final network, oldest first, as its checkpoint holds them.
        records: commands of the run except earlier reports, oldest first.
        versions: of the tool and of what made this page.
        left_out: why a section is missing, by its id.
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

    @property
    def original(self) -> ModelFacts:
        """The network that was scored."""
        return self.models[0]

    @property
    def final(self) -> ModelFacts | None:
        """The last network of the run; None where nothing was pruned."""
        return self.models[-1] if len(self.models) > 1 else None

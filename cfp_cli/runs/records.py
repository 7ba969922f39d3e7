"""The records of `run.json`: one dataclass for each command, read and written only here.

A record holds what a command was given (arguments, seed, inputs with their hashes), what it wrote (outputs with their
hashes) and what it measured.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from cfp_cli.exporting.benchmark import Benchmark
from cfp_cli.exporting.export import ExportReport
from cfp_cli.foundation.content_hash import read_hashed_json, write_hashed_json
from cfp_cli.foundation.errors import RunError
from cfp_cli.foundation.files import sha256
from cfp_cli.foundation.typed_json import FieldError, quoted, read, require_int64, to_json
from cfp_cli.foundation.versions import versions
from cfp_cli.measuring.latency import Latency
from cfp_cli.measuring.loss_rule import LossMetric
from cfp_cli.measuring.metrics import Metrics
from cfp_cli.report.frontier import FrontierPoint

LOGGER = logging.getLogger(__name__)

FORMAT = "cfp-run/2"
ADVICE = "use another --run, or delete the file"


@dataclass(frozen=True)
class ModelRecord:
    """A model file that a command read.

    Attributes:
        path: the file.
        sha256: hash of its content.
        arch: `--arch`, where it was given.
        input_size: height and width of `--input-size` in pixels, where it was given.
        mean, std: `--mean` and `--std`, where they were given.
        classes: `--classes`, where it was given.
        weights: `--weights`, where it was given.
        unsafe_pickle: whether `--unsafe-pickle` was given.
    """

    path: Path
    sha256: str
    arch: str | None = None
    input_size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes: tuple[str, ...] | None = None
    weights: str | None = None
    unsafe_pickle: bool = False

    def __post_init__(self) -> None:
        _require_sha256(self.sha256)


@dataclass(frozen=True)
class DataRecord:
    """A set of images that a command read.

    Attributes:
        path: folder or list file.
        sha256: hash of the list of images.
        seed: seed of the splits that the command made.
        val_fraction: part of the training images that the validation split took.
        max_bad: largest accepted fraction of broken images.
        bit_depth: number of bits of white in images of more than 8 bits, given or chosen; None where there are none.
        labels: whether the labels of the images were read.
    """

    path: Path
    sha256: str
    seed: int
    val_fraction: float
    max_bad: float
    bit_depth: int | None = None
    labels: bool = True

    def __post_init__(self) -> None:
        _require_sha256(self.sha256)


@dataclass(frozen=True)
class Inputs:
    """Everything that a command read.

    Attributes:
        model: the network that it worked on.
        data: the images.
        teachers: the teachers of a fine-tuning, the representation teacher first.
        models: the networks that `cfp bench` compared.
    """

    model: ModelRecord | None = None
    data: DataRecord | None = None
    teachers: tuple[ModelRecord, ...] = ()
    models: tuple[ModelRecord, ...] = ()

    @property
    def by_name(self) -> dict[str, ModelRecord | DataRecord]:
        """All inputs with a name for each, such as `teacher 1`."""
        single = {"model": self.model, "data": self.data}
        named: dict[str, ModelRecord | DataRecord] = {name: each for name, each in single.items() if each is not None}
        for name, several in (("teacher", self.teachers), ("model", self.models)):
            named |= {f"{name} {number}": each for number, each in enumerate(several, 1)}
        return named


@dataclass(frozen=True)
class OutputFile:
    """A file that a command wrote, and the hash of its content."""

    path: Path
    sha256: str

    def __post_init__(self) -> None:
        _require_sha256(self.sha256)


def output_files(**paths: Path) -> dict[str, OutputFile]:
    """Files that a command has just written, by name, with their hashes."""
    return {name: OutputFile(path.resolve(), sha256(path)) for name, path in paths.items()}


@dataclass(frozen=True, kw_only=True)
class Record:
    """What every record holds; the dataclass of a command adds the type of its metrics.

    Attributes:
        line: the command line.
        arguments: options of the command, as plain data.
        seed: seed of its random choices.
        inputs: files and images that it read.
        outputs: files that it wrote, by name.
        seconds: how long it took.
        metrics: what it measured.
        versions: versions of cfp and of the packages it depends on.
        finished: date and time in UTC, ISO 8601.
    """

    command: ClassVar[str]

    line: tuple[str, ...] = field(default_factory=lambda: (Path(sys.argv[0]).name, *sys.argv[1:]))
    arguments: Mapping[str, Any]
    seed: int
    inputs: Inputs
    outputs: Mapping[str, OutputFile] = field(default_factory=dict)
    seconds: float
    metrics: object
    versions: Mapping[str, str] = field(default_factory=versions)
    finished: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def hashes(self) -> set[str]:
        """SHA-256 of every input and output."""
        return {each.sha256 for each in (*self.inputs.by_name.values(), *self.outputs.values())}


@dataclass(frozen=True)
class ScoreMetrics:
    """What `cfp score` measured: images scored, seconds in all, and seconds of the forward passes alone."""

    images: int
    seconds: float
    forward_seconds: float


@dataclass(frozen=True)
class PruneMetrics:
    """What `cfp prune` measured.

    Attributes:
        params_before, params_after: number of parameters.
        compression: ratio of the two.
        max_abs_logit_error: largest difference of a logit in the proof of the rebuild.
        accuracy: validation accuracy by stage, such as `before` and `rebuilt`.
    """

    params_before: int
    params_after: int
    compression: float
    max_abs_logit_error: float
    accuracy: Mapping[str, float]


@dataclass(frozen=True)
class FinetuneMetrics:
    """What `cfp finetune` measured.

    Attributes:
        best_epoch: the epoch whose weights were kept, from 0; -1 for the weights before training.
        val: metrics of the student on the validation split; None without labels.
        test: metrics of the student on the test split; None without one.
        teachers: metrics of each teacher on the test split; None without one.
        output_error: error of the student's outputs on the validation split; None with labels.
        test_output_error: likewise on the test split.
    """

    best_epoch: int
    val: Metrics | None
    test: Metrics | None
    teachers: tuple[Metrics | None, ...]
    output_error: float | None = None
    test_output_error: float | None = None

    def __post_init__(self) -> None:
        named = {"val": self.val, "test": self.test}
        named |= {f"teachers[{index}]": each for index, each in enumerate(self.teachers)}
        for name, metrics in named.items():
            if metrics is not None:
                _require_confusion(name, metrics)


def _require_confusion(name: str, metrics: Metrics) -> None:
    names = metrics.per_class if metrics.confusion_classes is None else metrics.confusion_classes
    unknown = [each for each in names if each not in metrics.per_class]
    if unknown:
        raise FieldError(f"{name}.confusion_classes has '{unknown[0]}', which is not in {name}.per_class")
    if [len(row) for row in metrics.confusion] != [len(names)] * len(names):
        raise FieldError(f"{name}.confusion is not a square matrix of {len(names)} classes")


@dataclass(frozen=True)
class BenchMetrics:
    """What `cfp bench` measured of each model."""

    models: tuple[Benchmark, ...]


@dataclass(frozen=True)
class ReportMetrics:
    """What `cfp report` wrote: bytes of the page, and why a section is missing, by the section's id."""

    bytes: int
    left_out: Mapping[str, str]


@dataclass(frozen=True)
class ShrinkMetrics:
    """What `cfp shrink` measured.

    Attributes:
        frontier: the candidates, in the order of their measurement.
        max_loss: largest loss with its standard error that was allowed, in points of `metric` on the validation images.
        metric: the metric of the loss.
        met: whether the chosen network is within the loss and the budgets.
        original_val: metrics of the original on the validation split.
        original_test: likewise on the test split; None without one.
        val: metrics of the chosen network on the validation split.
        test: likewise on the test split; None without one.
        original_latency, latency: measured in turns, of the original and of the chosen network; None if they were not.
        bytes: size of the ONNX file of the chosen network; None if it was not needed.
        over_budget: budgets that the finished network exceeds.
        labelled: whether the images have labels; otherwise the original's predictions are the labels.
        views: number of views of each validation image that the losses of the candidates are means over.
        complete: whether neither the time limit nor the number of looks ended the search.
    """

    frontier: tuple[FrontierPoint, ...]
    max_loss: float
    metric: LossMetric
    met: bool
    original_val: Metrics
    original_test: Metrics | None
    val: Metrics
    test: Metrics | None
    original_latency: Latency | None = None
    latency: Latency | None = None
    bytes: int | None = None
    over_budget: tuple[str, ...] = ()
    labelled: bool = True
    views: int = 1
    complete: bool = True

    def __post_init__(self) -> None:
        named = {"original_val": self.original_val, "original_test": self.original_test}
        for name, metrics in (named | {"val": self.val, "test": self.test}).items():
            if metrics is not None:
                _require_confusion(name, metrics)


@dataclass(frozen=True, kw_only=True)
class ScoreRecord(Record):
    """Record of `cfp score`."""

    command: ClassVar[str] = "score"
    metrics: ScoreMetrics


@dataclass(frozen=True, kw_only=True)
class PruneRecord(Record):
    """Record of `cfp prune`."""

    command: ClassVar[str] = "prune"
    metrics: PruneMetrics

    def __post_init__(self) -> None:
        _require_output(self, "pruned")


@dataclass(frozen=True, kw_only=True)
class FinetuneRecord(Record):
    """Record of `cfp finetune`."""

    command: ClassVar[str] = "finetune"
    metrics: FinetuneMetrics

    def __post_init__(self) -> None:
        _require_output(self, "finetuned")
        if len(self.inputs.teachers) != len(self.metrics.teachers):
            raise FieldError(
                f"metrics.teachers has {len(self.metrics.teachers)} values, not one for each of the "
                f"{len(self.inputs.teachers)} teachers"
            )


@dataclass(frozen=True, kw_only=True)
class BenchRecord(Record):
    """Record of `cfp bench`."""

    command: ClassVar[str] = "bench"
    metrics: BenchMetrics

    def __post_init__(self) -> None:
        if len(self.inputs.models) != len(self.metrics.models):
            raise FieldError(
                f"metrics.models has {len(self.metrics.models)} values, not one for each of the "
                f"{len(self.inputs.models)} models"
            )


@dataclass(frozen=True, kw_only=True)
class ExportRecord(Record):
    """Record of `cfp export`."""

    command: ClassVar[str] = "export"
    metrics: ExportReport


@dataclass(frozen=True, kw_only=True)
class ReportRecord(Record):
    """Record of `cfp report`."""

    command: ClassVar[str] = "report"
    metrics: ReportMetrics


@dataclass(frozen=True, kw_only=True)
class ShrinkRecord(Record):
    """Record of `cfp shrink`."""

    command: ClassVar[str] = "shrink"
    metrics: ShrinkMetrics

    def __post_init__(self) -> None:
        _require_output(self, "shrunk")


KINDS: dict[str, type[Record]] = {
    kind.command: kind
    for kind in (ScoreRecord, PruneRecord, FinetuneRecord, BenchRecord, ExportRecord, ReportRecord, ShrinkRecord)
}


def read_records(path: Path) -> list[Record]:
    """Read all records of a `run.json`, oldest first.

    Raises:
        RunError: the file cannot be read, does not match its hash, has another format, or holds a wrong field.
    """
    content = read_hashed_json(path, RunError, ADVICE)
    if not isinstance(content, dict) or "format" not in content:
        raise RunError(f"{path}: format is missing; {ADVICE}")
    if content["format"] != FORMAT:
        raise RunError(f"{path} has format {quoted(content['format'])}, this version reads {FORMAT}; {ADVICE}")
    unknown = next((name for name in content if name not in ("format", "records")), None)
    if unknown is not None:
        raise RunError(f"{path}: unknown field {quoted(unknown)}; {ADVICE}")
    records = content.get("records")
    if not isinstance(records, list):
        raise RunError(f"{path}: records is not a list; {ADVICE}")
    LOGGER.info("read %s: %d records", path, len(records))
    return [_read_record(path, f"records[{index}]", each) for index, each in enumerate(records)]


def _read_record(path: Path, name: str, value: object) -> Record:
    if not isinstance(value, dict):
        raise RunError(f"{path}: {name} is not an object; {ADVICE}")
    rest = dict(value)
    command = rest.pop("command", None)
    if not isinstance(command, str) or command not in KINDS:
        raise RunError(f"{path}: {name}.command is {quoted(command)}, not one of {', '.join(KINDS)}; {ADVICE}")
    try:
        require_int64(rest, name)
    except FieldError as error:
        raise RunError(f"{path}: {error}; {ADVICE}") from error
    return read(KINDS[command], rest, path, name, RunError, ADVICE)


def write_records(path: Path, records: Sequence[Record]) -> None:
    """Write a `run.json` with the hash of its content, atomically."""
    content = {"format": FORMAT, "records": [{"command": each.command, **to_json(each)} for each in records]}
    write_hashed_json(path, content)


def _require_output(record: Record, name: str) -> None:
    if name not in record.outputs:
        raise FieldError(f"outputs.{name} is missing")


def _require_sha256(digest: str) -> None:
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise FieldError(f"sha256 is {digest[:70]!r}, not 64 hexadecimal digits")

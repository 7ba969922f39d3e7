"""The grid: every method at every ratio with every seed, one row of results each; what is done is not done again."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cfp_cli.checkpoints.checkpoint import describe, fingerprint, spec_of
from cfp_cli.comparing.methods import Method
from cfp_cli.comparing.students import Students, recovery_epochs
from cfp_cli.data.dataset import Dataset
from cfp_cli.data.images import load_images
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.foundation.errors import DataError, RunError, UsageError
from cfp_cli.foundation.files import write_bytes
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.foundation.versions import versions
from cfp_cli.measuring.metrics import Metrics, evaluate
from cfp_cli.pruning.restore import FULL, Restoration
from cfp_cli.training.finetune import finetune
from cfp_cli.training.history import History
from cfp_cli.training.loop import Listener
from cfp_cli.training.options import Amp, TrainOptions

BATCH = 64


@dataclass(frozen=True)
class Comparison:
    """One row: what was asked for, and what came of it.

    Attributes:
        network: fingerprint of the representation teacher; data: fingerprint of the images.
        method, ratio, seed: the cell of the grid.
        options: of the fine-tuning and the scoring, as JSON.
        compression: parameters before / after; params, macs: after.
        val_accuracy, test_accuracy, test_macro_f1: of the best epoch on the validation split.
        teacher_accuracy, teacher_macro_f1: of the representation teacher on the test split.
        best_epoch: from 1, 0 without fine-tuning; seconds: from the scores to the finished student.
        versions: of what computed it, as JSON.
    """

    network: str
    data: str
    method: str
    ratio: float
    seed: int
    options: str
    compression: float
    params: int
    macs: int
    val_accuracy: float
    test_accuracy: float
    test_macro_f1: float
    teacher_accuracy: float
    teacher_macro_f1: float
    best_epoch: int
    seconds: float
    versions: str

    @property
    def cell(self) -> tuple[Any, ...]:
        """What makes two rows the same measurement."""
        return (self.network, self.data, self.method, self.ratio, self.seed, self.options)


@dataclass(frozen=True)
class Summary:
    """All seeds of one method at one ratio: means and sample standard deviations (0 for one seed).

    Attributes:
        method, ratio: the cell; seeds: how many.
        compression: mean of parameters before / after.
        accuracy, macro_f1: mean and deviation on the test split.
        lost: mean of the teacher's test accuracy minus the student's.
    """

    method: str
    ratio: float
    seeds: int
    compression: float
    accuracy: tuple[float, float]
    macro_f1: tuple[float, float]
    lost: float

    def shown(self, figure: tuple[float, float], unit: str = "") -> str:
        """A mean in percent with its deviation; one run has none."""
        mean, deviation = (f"{100 * value:.2f}{unit}" for value in figure)
        return f"{mean} ± {deviation}" if self.seeds > 1 else mean


def compare(
    teachers: Sequence[nn.Module],
    dataset: Dataset,
    methods: Sequence[Method],
    ratios: Sequence[float],
    seeds: Sequence[int],
    options: TrainOptions | None,
    *,
    folder: Path,
    images: int = 640,
    restoration: Restoration = FULL,
    device: torch.device | str = "cpu",
    progress: Progress = SILENT,
    listen: Listener | None = None,
) -> tuple[Comparison, ...]:
    """Prune and fine-tune with every method, ratio and seed; each finished row is in `folder/results.csv` at once.

    All methods start from the first teacher, remove the same fraction of parameters, and learn from the same teachers
    for the same number of epochs. A seed decides the sample of images, the views and the order of training.

    Args:
        teachers: one or two networks with specs, the representation teacher first.
        dataset: with splits `train`, `val` and `test`.
        methods: see `methods.METHODS`.
        ratios: fractions of parameters to remove.
        seeds: one run each.
        options: of the fine-tuning; the seed in it is not used. None compares what pruning leaves, before any training.
        folder: results, scores and teachers' logits; a killed comparison goes on from there.
        images: size of the scored sample.
        restoration: what is done after each rebuild.
        device: where to compute.
        progress: told of what takes long.
        listen: called with all rows of the fine-tuning after each of its epochs.

    Raises:
        DataError: there is no test split.
        UsageError: a method that trains between its steps is asked for without fine-tuning.
        CfpError: an input cannot be used, or a target cannot be met.
    """
    if "test" not in dataset.splits:
        raise DataError("a comparison needs a test split; see `cfp data split`")
    training = [method.name for method in methods if method.steps > 1]
    if options is None and training:
        raise UsageError(f"{training[0]} trains between its steps; leave it out without fine-tuning")
    grid = _Grid(teachers, dataset, options, folder, images, restoration, torch.device(device), progress, listen)
    rows = list(read_rows(folder / "results.csv"))
    known = {row.cell: row for row in rows}
    found = []
    cells = [(method, ratio, seed) for seed in seeds for ratio in ratios for method in methods]
    for number, (method, ratio, seed) in enumerate(cells, 1):
        row = known.get(grid.cell(method, ratio, seed))
        if row is None:
            progress.say(f"{number} of {len(cells)}: {method.name}, ratio {ratio:g}, seed {seed}")
            row = grid.run(method, ratio, seed)
            rows.append(row)
            write_rows(folder / "results.csv", rows)
        found.append(row)
    return tuple(found)


@dataclass
class _Grid:
    teachers: Sequence[nn.Module]
    dataset: Dataset
    options: TrainOptions | None
    folder: Path
    images: int
    restoration: Restoration
    device: torch.device
    progress: Progress
    listen: Listener | None
    _tested: Metrics | None = None

    def __post_init__(self) -> None:
        self.hashes = [fingerprint(teacher) for teacher in self.teachers]
        self._students = Students(
            self.teachers[0],
            self.dataset,
            self.folder,
            self.images,
            self.device,
            self.restoration,
            self.progress,
        )

    def cell(self, method: Method, ratio: float, seed: int) -> tuple[Any, ...]:
        options = {"epochs": 0} if self.options is None else self.options.to_json()
        facts = {**options, "images": self.images, "teachers": self.hashes, **asdict(self.restoration)}
        text = json.dumps({name: value for name, value in facts.items() if name != "seed"}, sort_keys=True)
        return (self.hashes[0], self.dataset.fingerprint, method.name, ratio, seed, text)

    def run(self, method: Method, ratio: float, seed: int) -> Comparison:
        began = time.perf_counter()
        original = self.teachers[0]
        spec = spec_of(original)
        cell = self.cell(method, ratio, seed)
        recovering = recovery_epochs(method, self.options.epochs) if self.options is not None else 0
        amp: Amp = "off" if self.options is None else self.options.amp
        student, made = self._students.make(method, ratio, seed, recovering, amp)
        describe(student, replace(spec, plan=made.to_json()))
        if self.options is None:
            val, test = (self._measured(student, split) for split in ("val", "test"))
            best_epoch = 0
        else:
            history = self._finetuned(student, cell, replace(self.options, seed=seed), method, recovering)
            assert history.test is not None
            val, test, best_epoch = history.val, history.test, history.best_epoch + 1
        teacher = self._tested = self._tested or self._measured(original, "test")
        network, data, *_, text = cell
        return Comparison(
            network=network,
            data=data,
            method=method.name,
            ratio=ratio,
            seed=seed,
            options=text,
            compression=made.compression,
            params=made.params_after,
            macs=made.macs_after,
            val_accuracy=val.accuracy,
            test_accuracy=test.accuracy,
            test_macro_f1=test.macro_f1,
            teacher_accuracy=teacher.accuracy,
            teacher_macro_f1=teacher.macro_f1,
            best_epoch=best_epoch,
            seconds=time.perf_counter() - began,
            versions=json.dumps(versions(), sort_keys=True),
        )

    def _finetuned(
        self, student: nn.Module, cell: tuple[Any, ...], options: TrainOptions, method: Method, recovering: int
    ) -> History:
        # One folder a cell and student: a state left by a comparison with other options is not this one's, and on
        # another number of threads a student may differ in its last bits.
        current = self.folder / "current" / hashlib.sha256(repr((cell, fingerprint(student))).encode()).hexdigest()[:16]
        current.mkdir(parents=True, exist_ok=True)
        history = finetune(
            student,
            self.dataset,
            self.teachers,
            replace(options, epochs=options.epochs - (method.steps - 1) * recovering),
            out=current / "finetuned.pt",
            last=current / "last.pt",
            cache_folder=self.folder / "cache",
            resume=(current / "last.pt").exists(),
            device=self.device,
            progress=self.progress,
            listen=self.listen,
        )
        shutil.rmtree(current)
        return history

    def _measured(self, model: nn.Module, split: str) -> Metrics:
        preprocessing = Preprocessing.of(spec_of(self.teachers[0]))
        store = load_images(self.dataset, split, preprocessing, progress=self.progress)
        return evaluate(model, store.batches(BATCH), progress=self.progress)


def summaries(rows: Sequence[Comparison]) -> tuple[Summary, ...]:
    """The rows by ratio, then by mean test accuracy, the best first."""
    cells: dict[tuple[float, str], list[Comparison]] = {}
    for row in rows:
        cells.setdefault((row.ratio, row.method), []).append(row)
    found = [
        Summary(
            method,
            ratio,
            len(group),
            statistics.mean(row.compression for row in group),
            _spread([row.test_accuracy for row in group]),
            _spread([row.test_macro_f1 for row in group]),
            statistics.mean(row.teacher_accuracy - row.test_accuracy for row in group),
        )
        for (ratio, method), group in cells.items()
    ]
    return tuple(sorted(found, key=lambda each: (each.ratio, -each.accuracy[0])))


def _spread(values: list[float]) -> tuple[float, float]:
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def read_rows(path: Path) -> Iterator[Comparison]:
    """The rows of a result file; none where it does not exist.

    Raises:
        RunError: it is not a result file of this version.
    """
    if not path.exists():
        return
    types: dict[str, Callable[[str], Any]] = {"str": str, "float": float, "int": int}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            try:
                yield Comparison(**{each.name: types[str(each.type)](row[each.name]) for each in fields(Comparison)})
            except (KeyError, ValueError, TypeError) as error:
                raise RunError(f"{path} is not a result file of this version ({error}); use another --out") from error


def write_rows(path: Path, rows: Sequence[Comparison]) -> None:
    """Write the result file, atomically."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [each.name for each in fields(Comparison)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_bytes(path, text.getvalue().encode())

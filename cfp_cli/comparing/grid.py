"""The grid of a comparison: every method at every ratio with every seed. Finished cells are not computed again."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cfp_cli.checkpoints.fingerprint import fingerprint
from cfp_cli.checkpoints.spec import describe, spec_of
from cfp_cli.comparing.methods import Method
from cfp_cli.comparing.rows import Comparison, read_rows, write_rows
from cfp_cli.comparing.students import Students, recovery_epochs
from cfp_cli.data.dataset import Dataset
from cfp_cli.data.images import load_images
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.foundation.errors import DataError, UsageError
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.foundation.versions import versions
from cfp_cli.measuring.metrics import Metrics, evaluate
from cfp_cli.pruning.options import Target
from cfp_cli.pruning.refit import FULL, Refit
from cfp_cli.training.finetune import finetune
from cfp_cli.training.history import History
from cfp_cli.training.loop import Listener
from cfp_cli.training.options import Amp, TrainOptions

BATCH = 64


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
    target: Target = "params",
    refit: Refit = FULL,
    device: torch.device | str = "cpu",
    progress: Progress = SILENT,
    listen: Listener | None = None,
) -> tuple[Comparison, ...]:
    """Prune and fine-tune with every method, ratio and seed; each finished row is in `folder/results.csv` at once.

    All methods start from the first teacher, remove the same fraction of the target, and learn from the same teachers
    for the same number of epochs. A seed decides the sample of images, the views and the order of training.

    Args:
        teachers: one or two networks with specs, the representation teacher first.
        dataset: with splits `train`, `val` and `test`.
        methods: see `methods.METHODS`.
        ratios: fractions of the target to remove.
        seeds: one run each.
        options: of the fine-tuning; its seed is not used. None compares the pruned networks before any training.
        folder: results, scores and teachers' logits; a killed comparison continues from it.
        images: size of the scored sample.
        target: what the ratios count, `params` or `macs`.
        refit: what is done after each rebuild.
        device: where to compute.
        progress: reports progress.
        listen: called after each epoch with all rows of the fine-tuning so far.

    Raises:
        DataError: there is no test split.
        UsageError: a method with several rounds is asked for without fine-tuning.
        CfpError: an input cannot be used, or a target cannot be met.
    """
    if "test" not in dataset.splits:
        raise DataError("a comparison needs a test split; see `cfp data split`")
    training = [method.name for method in methods if method.rounds > 1]
    if options is None and training:
        raise UsageError(f"--no-finetune cannot be used with {training[0]}, which trains; leave one out")
    grid = _Grid(teachers, dataset, options, folder, images, target, refit, torch.device(device), progress, listen)
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
    target: Target
    refit: Refit
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
            self.refit,
            self.progress,
        )

    def cell(self, method: Method, ratio: float, seed: int) -> tuple[Any, ...]:
        options = {"epochs": 0} if self.options is None else self.options.to_json()
        facts = {**options, "images": self.images, "teachers": self.hashes, **asdict(self.refit)}
        # Rows of parameters have no target, so that the rows of earlier versions are found.
        facts |= {} if self.target == "params" else {"target": self.target}
        text = json.dumps({name: value for name, value in facts.items() if name != "seed"}, sort_keys=True)
        return (self.hashes[0], self._students.data, method.name, ratio, seed, text)

    def run(self, method: Method, ratio: float, seed: int) -> Comparison:
        began = time.perf_counter()
        original = self.teachers[0]
        spec = spec_of(original)
        cell = self.cell(method, ratio, seed)
        recovering = recovery_epochs(method, self.options.epochs) if self.options is not None else 0
        amp: Amp = "off" if self.options is None else self.options.amp
        student, made = self._students.make(method, ratio, seed, recovering, amp, self.target)
        describe(student, replace(spec, plan=made.to_json()))
        if self.options is None:
            val, test = (self._measured(student, split) for split in ("val", "test"))
            best_epoch = 0
        else:
            history = self._finetuned(student, cell, replace(self.options, seed=seed), method, recovering)
            assert history.val is not None
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
            replace(options, epochs=options.epochs - (method.rounds - 1) * recovering),
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

"""The rows of a comparison: one for each cell of the grid, their summaries, and the result file."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from cfp_cli.foundation.content_hash import KEY, MISMATCH, hash_content
from cfp_cli.foundation.errors import RunError
from cfp_cli.foundation.files import write_bytes


@dataclass(frozen=True)
class Comparison:
    """One row: the options of a run and its results.

    Attributes:
        network: fingerprint of the representation teacher.
        data: hash of the images, see `hash_images`.
        method, ratio, seed: the cell of the grid.
        options: options of the fine-tuning and the scoring, as JSON.
        compression: parameters before / after.
        params, macs: parameters and multiply-adds after the prune.
        val_accuracy, test_accuracy, test_macro_f1: metrics of the epoch that was best on the validation split.
        teacher_accuracy, teacher_macro_f1: metrics of the representation teacher on the test split.
        best_epoch: that epoch, from 1; 0 for the network before fine-tuning.
        seconds: time from the scores to the finished student.
        versions: versions of cfp and of the packages it depends on, as JSON.
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
        """Two rows with the same cell are the same measurement."""
        return (self.network, self.data, self.method, self.ratio, self.seed, self.options)


@dataclass(frozen=True)
class Summary:
    """All seeds of one method at one ratio: means and sample standard deviations (0 for one seed).

    Attributes:
        method, ratio: the cell.
        seeds: number of seeds.
        compression: mean of parameters before / after.
        macs: mean of the multiply-adds after the prune.
        accuracy, macro_f1: mean and deviation on the test split.
        lost: mean of the teacher's test accuracy minus the student's.
    """

    method: str
    ratio: float
    seeds: int
    compression: float
    macs: float
    accuracy: tuple[float, float]
    macro_f1: tuple[float, float]
    lost: float

    def shown(self, figure: tuple[float, float], unit: str = "") -> str:
        """A mean in percent with its deviation; a single seed has no deviation."""
        mean, deviation = (f"{100 * value:.2f}{unit}" for value in figure)
        return f"{mean} ± {deviation}" if self.seeds > 1 else mean


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
            statistics.mean(row.macs for row in group),
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
    """The rows of a result file; none where it does not exist. A row that was written by hand has no hash.

    Raises:
        RunError: it is not a result file of this version, or a row does not match its hash.
    """
    if not path.exists():
        return
    types: dict[str, Callable[[str], Any]] = {"str": str, "float": float, "int": int}
    columns = [each.name for each in fields(Comparison)]
    try:
        lines = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")), strict=True))
        for number, line in enumerate(lines, 2):
            stored = line.pop(KEY, "")
            if list(line) != columns or stored is None:
                raise ValueError(f"line {number} has other columns")
            values = {each.name: types[str(each.type)](line[each.name]) for each in fields(Comparison)}
            wrong = next((name for name, value in values.items() if value != value), None)
            if wrong is not None:
                raise ValueError(f"{wrong} of line {number} is not a number")
            if stored and hash_content(line) != stored:
                raise RunError(f"line {number} of {path} {MISMATCH}; delete the line, so that it is computed again")
            yield Comparison(**values)
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise RunError(f"{path} is not a result file of this version ({error}); use another --out") from error


def write_rows(path: Path, rows: Sequence[Comparison]) -> None:
    """Write the result file, atomically. The last column is the hash of the row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [*(each.name for each in fields(Comparison)), KEY], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        line = {name: str(value) for name, value in asdict(row).items()}
        writer.writerow({**line, KEY: hash_content(line)})
    write_bytes(path, text.getvalue().encode())

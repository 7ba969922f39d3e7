"""The results of each epoch of a run: rows, `history.csv` and TensorBoard logs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from cfp_cli.foundation.errors import RunError
from cfp_cli.foundation.extras import require_packages
from cfp_cli.foundation.files import write_bytes
from cfp_cli.foundation.typed_json import convert, quoted, read
from cfp_cli.measuring.metrics import Metrics


@dataclass(frozen=True)
class EpochRow:
    """The results of one epoch.

    Attributes:
        epoch: index of the epoch, from 0.
        loss: mean loss over the training images of the epoch.
        loss_rl: mean distillation loss to the representation teacher; None without teachers.
        loss_cl: mean distillation loss to the class-balanced teacher; None with fewer than two teachers.
        mix: weight l of the representation teacher; None with fewer than two teachers.
        lr: learning rate of the epoch.
        accuracy: accuracy on the validation split, 0 to 1, as are the next four; None without labels.
        macro_precision: macro-averaged precision on the validation split.
        macro_recall: macro-averaged recall on the validation split.
        macro_f1: macro-averaged F1 on the validation split.
        balanced_accuracy: balanced accuracy on the validation split.
        images_per_second: training images per second, without the time of validation.
        seconds: time of training and validation.
        output_error: error of the outputs on the validation split, see `output_error`; None with labels.
        val_loss: distillation loss on the validation split, the mean over the teachers; None without teachers, or
            without labels.
    """

    epoch: int
    loss: float
    loss_rl: float | None
    loss_cl: float | None
    mix: float | None
    lr: float
    accuracy: float | None
    macro_precision: float | None
    macro_recall: float | None
    macro_f1: float | None
    balanced_accuracy: float | None
    images_per_second: float
    seconds: float
    output_error: float | None = None
    val_loss: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The row as plain data."""
        return asdict(self)

    def summary(self, epochs: int) -> str:
        """The row as one line of text.

        Args:
            epochs: number of epochs of the run.
        """
        named = (
            ("val accuracy", self.accuracy),
            ("val macro-F1", self.macro_f1),
            ("val error of the outputs", self.output_error),
        )
        measured = ", ".join(f"{name} {value:.2%}" for name, value in named if value is not None)
        if self.val_loss is not None:
            measured += f", val loss {self.val_loss:.4f}"
        return (
            f"epoch {self.epoch + 1}/{epochs}: loss {self.loss:.4f}, {measured}, lr {self.lr:.1e}, "
            f"{self.images_per_second:.0f} images/s"
        )

    @classmethod
    def from_json(cls, data: object, field: str = "row") -> EpochRow:
        """Build a row from the output of `to_json`, which is at `field` of a file.

        Raises:
            FieldError: a value is missing, unknown or wrong.
        """
        row: EpochRow = convert(cls, data, field)
        return row


@dataclass(frozen=True)
class History:
    """The results of a finished run.

    Attributes:
        rows: one row per epoch, oldest first.
        best_epoch: index of the epoch whose weights were kept, from 0; -1 for the weights before training.
        seconds: time of all epochs, without interruptions.
        val: metrics of the kept weights on the validation split; None without labels.
        test: metrics of the kept weights on the test split, measured once; None without a test split or labels.
        output_error: error of the outputs of the kept weights on the validation split, see `output_error`; None with
            labels.
        test_output_error: likewise on the test split.
    """

    rows: tuple[EpochRow, ...]
    best_epoch: int
    seconds: float
    val: Metrics | None
    test: Metrics | None = None
    output_error: float | None = None
    test_output_error: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The history as plain data: `epochs`, `seconds`, `best_epoch`, `val`, `test`, `rows`."""
        return {
            "epochs": len(self.rows),
            "seconds": self.seconds,
            "best_epoch": self.best_epoch,
            "val": self.val.to_json() if self.val else None,
            "test": self.test.to_json() if self.test else None,
            "output_error": self.output_error,
            "test_output_error": self.test_output_error,
            "rows": [row.to_json() for row in self.rows],
        }


def write_csv(path: Path, rows: Sequence[EpochRow]) -> None:
    """Write a header and one line per epoch, atomically. Values that are None become empty cells."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(EpochRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.to_json() for row in rows)
    write_bytes(path, text.getvalue().encode())


def read_csv(path: Path) -> tuple[EpochRow, ...]:
    """Read the rows of a file that `write_csv` wrote.

    Raises:
        RunError: the file cannot be read, or a value is missing, unknown or wrong; the message names line and column.
    """
    advice = "run `cfp finetune` again"
    try:
        reader = csv.reader(io.StringIO(path.read_text(encoding="utf-8")), strict=True)
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}); {advice}") from error
    try:
        lines = list(reader)
    except csv.Error as error:
        raise RunError(f"{path}: line {reader.line_num} cannot be read ({error}); {advice}") from error
    columns, *lines = lines or [[]]
    known = [field.name for field in fields(EpochRow)]
    required = [field.name for field in fields(EpochRow) if field.default is MISSING]
    for name in known:
        if columns.count(name) != 1 and (name in columns or name in required):
            found = f"has {columns.count(name)} columns {name}" if name in columns else f"has no column {name}"
            other = next((each for each in columns if each not in known), None)
            raise RunError(f"{path} {found}{'' if other is None else f', but {quoted(other)}'}; {advice}")
    rows: list[EpochRow] = []
    for number, line in enumerate(lines, 2):
        if len(line) != len(columns):
            raise RunError(f"{path}: line {number} has {len(line)} values, not {len(columns)}; {advice}")
        values = {name: _number(name, text) for name, text in zip(columns, line, strict=True)}
        row = read(EpochRow, values, path, f"line {number}", RunError, advice)
        if row.epoch != len(rows):
            raise RunError(f"{path}: line {number}.epoch is {row.epoch}, not {len(rows)}; {advice}")
        rows.append(row)
    return tuple(rows)


def _number(name: str, text: str) -> int | float | str | None:
    """Return the number that a cell contains, None for an empty cell, or the text if it is no number."""
    if not text:
        return None
    try:
        return int(text) if name == "epoch" else float(text)
    except ValueError:
        return text


class TensorBoard:
    """Writes rows as TensorBoard scalars, with the epoch as TensorBoard's step.

    Args:
        folder: folder of the event files.
        first_epoch: first epoch of a resumed run; TensorBoard hides older events from this epoch on.

    Raises:
        MissingExtraError: the package tensorboard is missing or broken.
    """

    def __init__(self, folder: Path, first_epoch: int = 0) -> None:
        require_packages("--tensorboard", ("tensorboard",))
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=first_epoch)

    def write(self, row: EpochRow) -> None:
        """Write the row of one epoch."""
        for name, value in row.to_json().items():
            if name != "epoch" and value is not None:
                self._writer.add_scalar(name, value, row.epoch)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()

"""What each epoch of a run came to, as rows, as `history.csv` and as TensorBoard logs."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from cfp_cli.foundation.errors import UsageError
from cfp_cli.foundation.files import write_bytes
from cfp_cli.measuring.metrics import Metrics


@dataclass(frozen=True)
class EpochRow:
    """One epoch.

    Attributes:
        epoch: from 0.
        loss: mean over the images drawn.
        loss_rl: mean distillation loss to the representation teacher; None without teachers.
        loss_cl: mean distillation loss to the classifier teacher; None with fewer than two teachers.
        mix: weight l of the representation teacher; None with fewer than two teachers.
        lr: learning rate.
        accuracy: of the validation split, 0 to 1, as are the next four.
        macro_precision: of the validation split.
        macro_recall: of the validation split.
        macro_f1: of the validation split.
        balanced_accuracy: of the validation split.
        images_per_second: training images, without validation.
        seconds: training and validation.
    """

    epoch: int
    loss: float
    loss_rl: float | None
    loss_cl: float | None
    mix: float | None
    lr: float
    accuracy: float
    macro_precision: float
    macro_recall: float
    macro_f1: float
    balanced_accuracy: float
    images_per_second: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The row as plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EpochRow:
        """The row that `to_json` gave."""
        return cls(**{field.name: data[field.name] for field in fields(cls)})


@dataclass(frozen=True)
class History:
    """A finished run.

    Attributes:
        rows: one per epoch, oldest first.
        best_epoch: the epoch whose weights were kept, from 0.
        seconds: computing time of all epochs, interruptions left out.
        val: metrics of the kept weights on the validation split.
        test: metrics of the kept weights on the test split, measured once; None without one.
    """

    rows: tuple[EpochRow, ...]
    best_epoch: int
    seconds: float
    val: Metrics
    test: Metrics | None = None

    def to_json(self) -> dict[str, Any]:
        """The history as plain data: `epochs`, `seconds`, `best_epoch`, `val`, `test`, `rows`."""
        return {
            "epochs": len(self.rows),
            "seconds": self.seconds,
            "best_epoch": self.best_epoch,
            "val": self.val.to_json(),
            "test": self.test.to_json() if self.test else None,
            "rows": [row.to_json() for row in self.rows],
        }


def write_csv(path: Path, rows: Sequence[EpochRow]) -> None:
    """Write one line per epoch under a line of names, atomically; what an epoch does not have is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(EpochRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.to_json() for row in rows)
    write_bytes(path, text.getvalue().encode())


def read_csv(path: Path) -> tuple[EpochRow, ...]:
    """The rows that `write_csv` wrote."""
    with path.open(newline="") as file:
        return tuple(
            EpochRow(int(line.pop("epoch")), **{name: float(value) if value else None for name, value in line.items()})  # type: ignore[arg-type]
            for line in csv.DictReader(file)
        )


class TensorBoard:
    """Writes rows as TensorBoard scalars, one step per epoch.

    Args:
        folder: of the event files.
        first_epoch: where a resumed run goes on; later steps of older event files are dropped.

    Raises:
        UsageError: the extra `tensorboard` is not installed.
    """

    def __init__(self, folder: Path, first_epoch: int = 0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UsageError('TensorBoard is not installed; run: pip install "cfp[tensorboard]"') from error
        self._writer = SummaryWriter(str(folder), purge_step=first_epoch)

    def write(self, row: EpochRow) -> None:
        """Write one epoch."""
        for name, value in row.to_json().items():
            if name != "epoch" and value is not None:
                self._writer.add_scalar(name, value, row.epoch)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()

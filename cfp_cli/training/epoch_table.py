"""The live table of a training run: the last epochs, the best epoch and the remaining time."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from cfp_cli.training.history import EpochRow
from cfp_cli.training.options import Select

# Rows of the table, without the best epoch.
_RECENT = 8


def epoch_table(
    rows: Sequence[EpochRow],
    epochs: int,
    *,
    select: Select = "accuracy",
) -> Table:
    """The last epochs, and the best epoch if it is older.

    Args:
        rows: all epochs so far, oldest first.
        epochs: number of epochs of the run.
        select: the metric that decides which epoch is the best; of equal epochs the latest.
    """
    one_teacher = any(row.loss_rl is not None for row in rows)
    two_teachers = any(row.mix is not None for row in rows)
    names = ["epoch", "lr", "loss", *(["RL"] if one_teacher else []), *(["CL", "mix"] if two_teachers else [])]
    table = Table(caption=_caption(rows, epochs), caption_justify="left")
    without_labels = any(row.output_error is not None for row in rows)
    figures = ("output_error",) if without_labels else ("accuracy", "macro_f1", "balanced_accuracy")
    titles = ("error",) if without_labels else ("accuracy", "macro-F1", "balanced")
    for name in [*names, *titles, "images/s"]:
        table.add_column(name, justify="right", no_wrap=True)
    best = _best(rows, select)
    table_rows = list(rows[-_RECENT:])
    if best is not None and best not in table_rows:
        table_rows.insert(0, best)
    for row in table_rows:
        cells = [f"{'*' if row is best else ''}{row.epoch + 1}/{epochs}", f"{row.lr:.1e}", f"{row.loss:.4f}"]
        if one_teacher:
            cells.append(_number(row.loss_rl))
        if two_teachers:
            cells += [_number(row.loss_cl), _number(row.mix)]
        cells += [f"{getattr(row, figure):.2%}" for figure in figures]
        table.add_row(*cells, f"{row.images_per_second:.0f}", style="green" if row is best else None)
    return table


def seconds_left(rows: Sequence[EpochRow], epochs: int) -> float:
    """Estimated time of the remaining epochs in seconds, from the mean of the last epochs."""
    recent = rows[-_RECENT:]
    return sum(row.seconds for row in recent) / len(recent) * (epochs - len(rows)) if recent else 0.0


def _best(rows: Sequence[EpochRow], select: Select) -> EpochRow | None:
    def order(row: EpochRow) -> tuple[float, int]:
        smaller_is_better = row.val_loss if select == "loss" and row.output_error is None else row.output_error
        return (getattr(row, select) if smaller_is_better is None else -smaller_is_better, row.epoch)

    return max(rows, key=order, default=None)


def _caption(rows: Sequence[EpochRow], epochs: int) -> str:
    minutes, seconds = divmod(round(seconds_left(rows, epochs)), 60)
    hours, minutes = divmod(minutes, 60)
    left = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
    return f"{len(rows)} of {epochs} epochs, {left} left; * best on validation"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"

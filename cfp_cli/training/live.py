"""The live view of a training run: one table of its last epochs, its best one and the time left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rich.table import Table

from cfp_cli.training.history import EpochRow

_SHOWN = 8


def table(
    rows: Sequence[EpochRow],
    epochs: int,
    *,
    select: Literal["accuracy", "macro_f1"] = "accuracy",
    title: str | None = None,
) -> Table:
    """The last epochs, and the best one where it is older.

    Args:
        rows: all epochs so far, oldest first.
        epochs: how many there will be.
        select: the figure that makes an epoch the best; of equal ones the latest.
        title: over the table.
    """
    distilled = any(row.loss_rl is not None for row in rows)
    fused = any(row.mix is not None for row in rows)
    names = ["epoch", "lr", "loss", *(["RL"] if distilled else []), *(["CL", "mix"] if fused else [])]
    view = Table(title=title, caption=_caption(rows, epochs), caption_justify="left")
    for name in [*names, "accuracy", "macro-F1", "balanced", "images/s"]:
        view.add_column(name, justify="right", no_wrap=True)
    best = _best(rows, select)
    shown = list(rows[-_SHOWN:])
    if best is not None and best not in shown:
        shown.insert(0, best)
    for row in shown:
        cells = [f"{'*' if row is best else ''}{row.epoch + 1}/{epochs}", f"{row.lr:.1e}", f"{row.loss:.4f}"]
        if distilled:
            cells.append(_number(row.loss_rl))
        if fused:
            cells += [_number(row.loss_cl), _number(row.mix)]
        cells += [f"{value:.2%}" for value in (row.accuracy, row.macro_f1, row.balanced_accuracy)]
        view.add_row(*cells, f"{row.images_per_second:.0f}", style="green" if row is best else None)
    return view


def seconds_left(rows: Sequence[EpochRow], epochs: int) -> float:
    """What the epochs still to come will take, by the mean of the last ones, in seconds."""
    recent = rows[-_SHOWN:]
    return sum(row.seconds for row in recent) / len(recent) * (epochs - len(rows)) if recent else 0.0


def _best(rows: Sequence[EpochRow], select: Literal["accuracy", "macro_f1"]) -> EpochRow | None:
    return max(rows, key=lambda row: (getattr(row, select), row.epoch), default=None)


def _caption(rows: Sequence[EpochRow], epochs: int) -> str:
    if not rows:
        return f"{epochs} epochs, the first is under way"
    minutes, seconds = divmod(round(seconds_left(rows, epochs)), 60)
    hours, minutes = divmod(minutes, 60)
    left = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
    return f"{len(rows)} of {epochs} epochs, {left} left; * best on validation"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"

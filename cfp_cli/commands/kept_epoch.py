"""The line that says why a training kept an epoch that is not its best, or the network that it started from."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cfp_cli.training.history import History
    from cfp_cli.training.options import Select


def kept_epoch(history: History, select: Select, start: str) -> tuple[str, ...]:
    """One line if the kept weights are not those of the epoch with the best value, else nothing.

    Args:
        history: the finished training.
        select: the validation metric that chose the epoch.
        start: what the line calls the network before training.
    """
    if history.best_epoch < 0:
        distilled = any(row.val_loss is not None for row in history.rows)
        why = f"no epoch was nearer to the teachers than {start}" if distilled else f"no epoch was better than {start}"
        return (
            f"{why}, so its weights are kept; use more --epochs, a lower --lr, or with few images a smaller "
            "--batch-size",
        )
    if select == "loss":
        return ()
    values = {row.epoch: getattr(row, select) for row in history.rows}
    if None in values.values():
        # Errors of outputs have no standard error, so the best epoch is kept.
        return ()
    best = max(values, key=values.__getitem__)
    if values[history.best_epoch] >= values[best]:
        return ()
    name = "accuracy" if select == "accuracy" else "macro-F1"
    with_teachers = any(row.val_loss is not None for row in history.rows)
    which = "the epoch nearest to the teachers" if with_teachers else "the latest epoch"
    return (
        f"epoch {history.best_epoch + 1} is kept: {which} within one standard error of the best val {name}, "
        f"{values[best]:.2%} in epoch {best + 1}",
    )

"""The checkpoints that `cfp train --folds` writes."""

from __future__ import annotations

from pathlib import Path


def outputs_of(out: Path, folds: int) -> tuple[Path, ...]:
    """Return one path for each fold, such as `rl.fold-1.pt` for `rl.pt`, then `out`."""
    return (*(out.with_name(f"{out.stem}.fold-{number + 1}{out.suffix}") for number in range(folds)), out)

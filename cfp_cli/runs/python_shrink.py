"""The Python call for shrinking."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.measuring.loss_rule import LossMetric, LossRule
from cfp_cli.pruning.frontier import Budget
from cfp_cli.runs.directory import Run
from cfp_cli.runs.inputs import DataInput, ModelInput, Permission
from cfp_cli.runs.shrink import run_shrink
from cfp_cli.runs.shrink_options import ShrinkOptions, short_training
from cfp_cli.runs.shrunk import Shrunk


def shrink(
    model: str | Path,
    data: str | Path,
    run: str | Path,
    *,
    max_loss: float = 0.5,
    metric: LossMetric = "macro_f1",
    budgets: Sequence[str] = (),
    teachers: Sequence[str | Path] = (),
    arch: str | None = None,
    device: torch.device | str = "cpu",
    progress: Progress = SILENT,
    **options: Any,
) -> Shrunk:
    """Find the smallest network whose validation result is within a loss of the original.

    Scores the original, measures refitted networks without training, fine-tunes those near the border, and tests the
    chosen one once. Call it again with the same run directory to continue after an interruption.

    Args:
        model: file of the trained classifier.
        data: folder or list of the images.
        run: run directory; the result is `RUN/shrunk.pt`.
        max_loss: largest loss with its standard error, in points, on the validation images and on views of them.
        metric: `macro_f1`, `accuracy`, or `agreement` with the original.
        budgets: what the result may cost at most, such as `params<=400k` or `latency<=2ms`.
        teachers: files of one or two teachers; empty uses `model`, and if the classes are unbalanced also a
            class-balanced teacher.
        arch: architecture, if a file does not name it.
        device: the device of the computation.
        progress: reports progress.
        options: fields of `ShrinkOptions`: `target`, `allocation`, `candidates`, `round_to`, `keep`, `ignore`,
            `runtime`, `threads`, `batch`, `finetune`, `training` (`TrainOptions`), `time_limit` in seconds,
            `batch_size` and `seed`.

    Returns:
        The result. `metrics.met` says whether the network is within the loss.

    Raises:
        TargetError: no network fits the budgets.
        UsageError: an option is out of range.
        CfpError: an input cannot be used, or a stage fails.
    """
    seed = options.get("seed", 0)
    training = options.pop("training", None) or short_training(seed=seed)
    chosen = ShrinkOptions(
        rule=LossRule(max_loss, metric), budgets=tuple(map(Budget.parse, budgets)), training=training, **options
    )

    with Run.exclusive(Path(run)) as directory:
        return run_shrink(
            directory,
            ModelInput(Path(model), arch),
            DataInput(Path(data), seed),
            chosen,
            teachers=[ModelInput(Path(each), arch) for each in teachers],
            permission=Permission(arch),
            device=torch.device(device),
            progress=progress,
        )

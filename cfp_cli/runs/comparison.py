"""`cfp compare`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from cfp_cli.checkpoints.spec import spec_of
from cfp_cli.comparing.grid import compare
from cfp_cli.comparing.methods import chosen
from cfp_cli.comparing.rows import Comparison
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.pruning.options import Target
from cfp_cli.pruning.refit import Refit
from cfp_cli.runs.inputs import DataInput, ModelInput, load_for, load_teacher
from cfp_cli.runs.output_path import check_output_folder
from cfp_cli.training.loop import Listener
from cfp_cli.training.options import TrainOptions


def run_compare(
    data: DataInput,
    teachers: Sequence[ModelInput],
    methods: Sequence[str],
    ratios: Sequence[float],
    seeds: Sequence[int],
    options: TrainOptions | None,
    *,
    folder: Path,
    images: int,
    target: Target,
    refit: Refit,
    device: torch.device,
    progress: Progress = SILENT,
    listen: Listener | None = None,
) -> tuple[Comparison, ...]:
    """Load the teachers and the images and compare; see `cfp_cli.comparing.grid`.

    Raises:
        UsageError: there is no such method.
        CfpError: an input cannot be used, or a target cannot be met.
    """
    wanted = chosen(methods)
    check_output_folder(folder, inputs=[*(teacher.path for teacher in teachers), data.path])
    dataset = data.open(progress)
    first, dataset = load_for(dataset, teachers[0], progress)
    networks = [first.to(device)]
    networks += [
        load_teacher(dataset, replace(teacher, like=spec_of(first)), progress).to(device) for teacher in teachers[1:]
    ]
    return compare(
        networks,
        dataset,
        wanted,
        ratios,
        seeds,
        options,
        folder=folder,
        images=images,
        target=target,
        refit=refit,
        device=device,
        progress=progress,
        listen=listen,
    )

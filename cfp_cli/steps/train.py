"""`cfp train`."""

from __future__ import annotations

from pathlib import Path

import torch

from cfp_cli.checkpoint import ModelSpec, describe, spec_of
from cfp_cli.errors import UsageError
from cfp_cli.models.registry import create
from cfp_cli.progress import SILENT, Progress
from cfp_cli.steps.inputs import DataInput, ModelInput, fit_classes
from cfp_cli.training.history import History
from cfp_cli.training.loop import Listener
from cfp_cli.training.options import TrainOptions
from cfp_cli.training.teacher import train


def train_step(
    data: DataInput,
    arch: str | None,
    out: Path,
    options: TrainOptions,
    *,
    input_size: int | None = None,
    init: ModelInput | None = None,
    resume: bool = False,
    tensorboard: Path | None = None,
    device: torch.device,
    progress: Progress = SILENT,
    listen: Listener | None = None,
) -> History:
    """Train a teacher from scratch, or from the weights of `init`; writes `out`.

    Raises:
        UsageError: neither an architecture nor a checkpoint to start from is given.
        CfpError: the data or the checkpoint cannot be used, or training cannot go on.
    """
    dataset = data.open(progress)
    if init is not None:
        network = fit_classes(init.load(), dataset, init.path)
        if arch is not None and arch != spec_of(network).arch:
            raise UsageError(f"{init.path} is {spec_of(network).arch}, not {arch}; leave out --arch")
    elif arch is None:
        raise UsageError("no architecture; pass --arch, such as --arch vgg16_bn_gap, or --init CKPT")
    else:
        side = input_size or 224
        torch.manual_seed(options.seed)
        network = describe(
            create(arch, len(dataset.classes)), ModelSpec(arch, dataset.classes, input_size=(side, side))
        )
    _, history = train(
        network.to(device),
        dataset,
        options,
        out,
        resume=resume,
        tensorboard=tensorboard,
        device=device,
        progress=progress,
        listen=listen,
    )
    return history

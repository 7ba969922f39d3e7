"""The stage of `cfp train`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from cfp_cli.checkpoints.new_head import with_new_head
from cfp_cli.checkpoints.readable import require_readable
from cfp_cli.checkpoints.spec import ModelSpec, describe, spec_of
from cfp_cli.foundation.errors import UsageError
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.models.registry import create
from cfp_cli.runs.inputs import DataInput, ModelInput, fit_classes
from cfp_cli.runs.output_path import check_output, check_output_folder
from cfp_cli.training.history import History
from cfp_cli.training.loop import Listener
from cfp_cli.training.options import TrainOptions
from cfp_cli.training.train import train


def run_train(
    data: DataInput,
    arch: str | None,
    out: Path,
    options: TrainOptions,
    *,
    input_size: int | None = None,
    init: ModelInput | None = None,
    new_head: bool = False,
    resume: bool = False,
    tensorboard: Path | None = None,
    device: torch.device,
    progress: Progress = SILENT,
    listen: Listener | None = None,
) -> History:
    """Train a teacher from random weights or from a checkpoint, and write `out`.

    Args:
        data: the images.
        arch: architecture of the network; None with `init` uses the architecture of the checkpoint.
        out: checkpoint of the best epoch.
        options: the training options.
        input_size: side of the input in pixels; None is that of `init`, or 224.
        init: checkpoint to start from.
        new_head: replace the head of `init`, for data with other classes.
        resume: continue an interrupted run.
        tensorboard: folder of TensorBoard logs.
        device: the device of the computation.
        progress: reports progress.
        listen: called with all rows after each epoch.

    Raises:
        UsageError: neither `arch` nor `init` is given, or `new_head` without `init`.
        CfpError: `out` cannot be written, the data or the checkpoint cannot be used, or training fails.
    """
    if new_head and init is None:
        raise UsageError("--new-head needs a checkpoint for the other weights; pass --init CKPT")
    inputs = [data.path, *([init.path] if init is not None else [])]
    for path in (out, out.with_suffix(".last.pt"), out.with_suffix(".history.csv")):
        check_output(path, inputs=inputs)
    if tensorboard is not None:
        check_output_folder(tensorboard, inputs=inputs)
    dataset = data.open(progress)
    torch.manual_seed(options.seed)
    if init is not None:
        start = init.load(progress)
        if new_head:
            network = with_new_head(start, dataset.classes)
        else:
            network, dataset = fit_classes(start, dataset, init.path, progress)
        if input_size is not None:
            describe(network, replace(spec_of(network), input_size=(input_size, input_size)))
        if arch is not None and arch != spec_of(network).arch:
            raise UsageError(f"{init.path} is {spec_of(network).arch}, not {arch}; leave out --arch")
    elif arch is None:
        raise UsageError("no architecture; pass --arch, such as --arch vgg16_bn_gap, or --init CKPT")
    else:
        side = input_size or 224
        network = describe(
            create(arch, len(dataset.classes)), ModelSpec(arch, dataset.classes, input_size=(side, side))
        )
    require_readable(network, out.parent)
    _, history = train(
        network.to(device),
        dataset,
        options,
        out,
        resume=resume,
        keep_start=init is not None and not new_head,
        tensorboard=tensorboard,
        device=device,
        progress=progress,
        listen=listen,
    )
    return history

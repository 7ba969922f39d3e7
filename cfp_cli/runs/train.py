"""The stage of `cfp train`."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cfp_cli.checkpoints.new_head import with_new_head
from cfp_cli.checkpoints.preprocessing import Assumed, complete, images_of
from cfp_cli.checkpoints.readable import require_readable
from cfp_cli.checkpoints.spec import DEFAULT_INPUT_SIZE, ModelSpec, describe, spec_of
from cfp_cli.data.dataset import Dataset
from cfp_cli.data.duplicates import report_images_in_two_splits
from cfp_cli.data.folds import stratified_folds
from cfp_cli.foundation.errors import UsageError
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.models.input_channels import set_input_channels
from cfp_cli.models.registry import create
from cfp_cli.runs.fold_outputs import outputs_of
from cfp_cli.runs.inputs import DataInput, ModelInput, fit_to_data
from cfp_cli.runs.network_check import warn_of_problems
from cfp_cli.runs.output_path import check_output, check_output_folder
from cfp_cli.training.history import History
from cfp_cli.training.loop import Listener
from cfp_cli.training.options import TrainOptions
from cfp_cli.training.train import train

# Figures of which cross-validation reports the mean and the spread.
FOLD_METRICS = ("accuracy", "macro_f1", "balanced_accuracy")


@dataclass(frozen=True)
class CrossValidation:
    """The results of the networks of all folds.

    Attributes:
        histories: one for each fold; `test` has the metrics on the images of the fold.
        outs: the checkpoint of each fold.
    """

    histories: tuple[History, ...]
    outs: tuple[Path, ...]

    def values(self, metric: str) -> tuple[float, ...]:
        """The value of a metric on each fold, 0 to 1."""
        return tuple(float(getattr(history.test, metric)) for history in self.histories)

    def mean(self, metric: str) -> float:
        """The mean over the folds."""
        return statistics.mean(self.values(metric))

    def spread(self, metric: str) -> float:
        """The sample standard deviation over the folds."""
        return statistics.stdev(self.values(metric))

    def to_json(self) -> dict[str, Any]:
        """The results as plain data: `folds`, `mean`, `spread`."""
        return {
            "folds": [
                {"out": str(out), "best_epoch": history.best_epoch, "test": history.test and history.test.to_json()}
                for out, history in zip(self.outs, self.histories, strict=True)
            ],
            "mean": {metric: self.mean(metric) for metric in FOLD_METRICS},
            "spread": {metric: self.spread(metric) for metric in FOLD_METRICS},
        }


@dataclass(frozen=True)
class Trained:
    """The results of `cfp train`.

    Attributes:
        history: the epochs of the network, and the metrics of the best epoch.
        folds: the results of cross-validation; None without it.
    """

    history: History
    folds: CrossValidation | None


def run_train(
    data: DataInput,
    arch: str | None,
    out: Path,
    options: TrainOptions,
    *,
    input_size: tuple[int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    channels: int | None = None,
    init: ModelInput | None = None,
    new_head: bool = False,
    folds: int = 0,
    resume: bool = False,
    tensorboard: Path | None = None,
    device: torch.device,
    progress: Progress = SILENT,
    listen: Listener | None = None,
) -> Trained:
    """Train a teacher from random weights or from a checkpoint, and write `out`.

    With `folds` a network for each fold is trained first, on the images of the other folds. Their results on the images
    of their folds show how the accuracy varies with the choice of images; the networks are not used otherwise.

    Args:
        data: the images.
        arch: architecture of the network; None with `init` uses the architecture of the checkpoint.
        out: checkpoint of the best epoch.
        options: the training options.
        input_size: height and width in pixels; None is that of `init`, of timm for a network of timm, or 224 x 224.
        mean: mean of each channel, or one value for all; None is that of `init`, of timm, or 0.
        std: standard deviation of each channel, likewise; None is that of `init`, of timm, or 1.
        channels: channels of the images; None is that of `init` or of the architecture.
        init: checkpoint to start from.
        new_head: replace the head of `init`, for data with other classes.
        folds: number of folds of a cross-validation; 0 is none.
        resume: continue an interrupted run.
        tensorboard: folder of TensorBoard logs of the network in `out`.
        device: the device of the computation.
        progress: reports progress.
        listen: called with all rows of a network after each epoch.

    Raises:
        UsageError: neither `arch` nor `init` is given, or `new_head` without `init`, or one fold.
        CfpError: `out` cannot be written, the data or the checkpoint cannot be used, or training fails.
    """
    if new_head and init is None:
        raise UsageError("--new-head needs a checkpoint for the other weights; pass --init CKPT")
    if folds == 1 or folds < 0:
        raise UsageError(f"--folds is {folds}; pass 2 or more")
    inputs = [data.path, *([init.path] if init is not None else [])]
    outs = outputs_of(out, folds)
    for each in outs:
        for path in (each, each.with_suffix(".last.pt"), each.with_suffix(".history.csv")):
            check_output(path, inputs=inputs)
    if tensorboard is not None:
        check_output_folder(tensorboard, inputs=inputs)
    dataset = data.open(progress)

    assumed = Assumed(input_size, mean, std)

    def train_on(images: Dataset, path: Path, logs: Path | None) -> History:
        network, images = _start(images, arch, options.seed, assumed, channels, init, new_head, progress)
        require_readable(network, path.parent)
        warn_of_problems(network, torch.zeros(1, *spec_of(network).input_shape), progress)
        _, history = train(
            network.to(device),
            images,
            options,
            path,
            resume=resume,
            keep_start=init is not None and not new_head,
            tensorboard=logs,
            device=device,
            progress=progress,
            listen=listen,
        )
        return history

    histories: list[History] = []
    if folds:
        for number, images in enumerate(stratified_folds(dataset, folds, options.seed, data.val_fraction)):
            progress.say(f"fold {number + 1} of {folds}")
            report_images_in_two_splits(images, progress)
            histories.append(train_on(images, outs[number], None))
        progress.say("all folds are done; training the network itself")
    history = train_on(dataset, out, tensorboard)
    return Trained(history, CrossValidation(tuple(histories), outs[:-1]) if folds else None)


def _start(
    dataset: Dataset,
    arch: str | None,
    seed: int,
    assumed: Assumed,
    channels: int | None,
    init: ModelInput | None,
    new_head: bool,
    progress: Progress,
) -> tuple[nn.Module, Dataset]:
    """The network before training, and the dataset with the classes in its order."""
    torch.manual_seed(seed)
    if init is None:
        if arch is None:
            raise UsageError("no architecture; pass --arch, such as --arch vgg16_bn_gap, or --init CKPT")
        network = create(arch, len(dataset.classes))
        if channels is not None:
            set_input_channels(network, channels, assumed.input_size or DEFAULT_INPUT_SIZE)
        spec, source = complete(ModelSpec(arch, dataset.classes, bit_depth=dataset.bit_depth), network, assumed, ())
        if source and assumed.mean is None and assumed.std is None:
            progress.say(f"{images_of(spec)}, {source}")
        return describe(network, spec), dataset
    sized = replace(init, input_size=assumed.input_size or init.input_size)
    network = sized.load(progress, without_head=new_head, resize=True)
    if new_head:
        network = with_new_head(network, dataset.classes)
    else:
        network, dataset = fit_to_data(network, dataset, init.path, progress)
    spec = spec_of(network)
    if channels not in (None, spec.channels):
        raise UsageError(f"{init.path} takes {spec.channels} channels, not {channels}; leave out --channels")
    if arch is not None and arch != spec_of(network).arch:
        raise UsageError(f"{init.path} is {spec_of(network).arch}, not {arch}; leave out --arch")
    return network, dataset

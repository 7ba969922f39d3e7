"""The stage of `cfp finetune` in a run directory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from cfp_cli.checkpoints.spec import spec_of
from cfp_cli.data.dataset import Dataset
from cfp_cli.data.images import load_images
from cfp_cli.data.masks import has_masks
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.execution import distributed
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.measuring.metrics import Metrics, evaluate
from cfp_cli.measuring.output_error import output_error
from cfp_cli.runs.directory import Run
from cfp_cli.runs.inputs import (
    NO_PERMISSION,
    DataInput,
    ModelInput,
    Permission,
    load_for,
    load_teacher,
    scored_data,
    with_or_without_labels,
)
from cfp_cli.runs.network_check import returns_class_maps
from cfp_cli.runs.output_path import check_output, check_output_folder
from cfp_cli.runs.outputs import pruned_model
from cfp_cli.runs.records import FinetuneMetrics, FinetuneRecord, Inputs, ScoreRecord, output_files
from cfp_cli.training.finetune import finetune
from cfp_cli.training.history import History
from cfp_cli.training.loop import Listener
from cfp_cli.training.options import TrainOptions
from cfp_cli.training.output_distillation import require_equal_outputs


@dataclass(frozen=True)
class Finetuned:
    """The results of a fine-tuning.

    Attributes:
        history: its epochs, and the metrics of the best epoch.
        before: metrics of the student on the validation split before fine-tuning; None without labels.
        before_test: likewise on the test split; None without one.
        teachers: metrics of each teacher on the test split; None without a test split.
        out: path of the checkpoint.
        before_error: error of the student's outputs on the validation split before fine-tuning; None with labels.
        before_test_error: likewise on the test split; None without one.
        masks: the images whose masks `cfp eval` compares the student with; None without masks, or with labels.
    """

    history: History
    before: Metrics | None
    before_test: Metrics | None
    teachers: tuple[Metrics | None, ...]
    out: Path
    before_error: float | None = None
    before_test_error: float | None = None
    masks: DataInput | None = None


def run_finetune(
    run: Run,
    model: ModelInput | None,
    data: DataInput | None,
    teachers: Sequence[ModelInput],
    options: TrainOptions,
    *,
    resume: bool = False,
    out: Path | None = None,
    history_file: Path | None = None,
    last: Path | None = None,
    cache: Path | None = None,
    tensorboard: Path | None = None,
    permission: Permission = NO_PERMISSION,
    device: torch.device,
    progress: Progress = SILENT,
    listen: Listener | None = None,
) -> Finetuned:
    """Fine-tune the pruned network of a run, and write `RUN/finetuned.pt`, `RUN/last.pt` and `RUN/history.csv`.

    Args:
        run: the run directory.
        model: the student; None uses the output of `cfp prune` in this run.
        data: the images; None uses those of `cfp score` in this run.
        teachers: one or two teachers, the representation teacher first.
        options: the training options.
        resume: continue from `last` if it exists.
        out: path of the checkpoint; None is `RUN/finetuned.pt`.
        history_file: path of the table of epochs; None is `RUN/history.csv`.
        last: path of the training state; None is `RUN/last.pt`.
        cache: folder of the teachers' outputs; None is `RUN/cache`.
        tensorboard: folder of TensorBoard logs.
        permission: what the user allows for a model that the run directory names.
        device: the device of the computation.
        progress: reports progress.
        listen: called with all rows after each epoch.

    Raises:
        CfpError: an input does not match the run, or training fails.
    """
    began = time.perf_counter()
    student = model or pruned_model(run, permission)
    if run.latest(ScoreRecord) is None and data is not None:
        source = with_or_without_labels(data, student.load(), student.path, progress)
        dataset = source.open(progress)
    else:
        source, dataset = scored_data(run, data, progress)
    path = out or run.finetuned
    table = history_file or run.folder / "history.csv"
    files = [student.path, source.path, *(teacher.path for teacher in teachers)]
    check_output(path, inputs=files, run=run.folder, own=[run.finetuned.name])
    if tensorboard is not None:
        check_output_folder(tensorboard, inputs=files)
    network, dataset = load_for(dataset, student, progress)
    network, spec = network.to(device), spec_of(network)
    teacher_networks = [load_teacher(dataset, replace(teacher, like=spec), progress).to(device) for teacher in teachers]
    validation = load_images(dataset, "val", Preprocessing.of(spec), progress=progress)
    batches = validation.batches(options.batch_size)
    before: Metrics | None = None
    before_error: float | None = None
    before_test_error: float | None = None
    masks: DataInput | None = None
    if dataset.labelled:
        before = evaluate(network, batches, progress=progress)
    else:
        require_equal_outputs(
            network, teacher_networks, [Preprocessing.of(spec_of(each)) for each in (network, *teacher_networks)]
        )
        before_error = output_error(network, teacher_networks[0], batches, classes=len(spec.classes))
        if "test" in dataset.splits:
            images = load_images(dataset, "test", Preprocessing.of(spec), progress=progress)
            tested = images.batches(options.batch_size)
            before_test_error = output_error(network, teacher_networks[0], tested, classes=len(spec.classes))
            if has_masks(images.paths) and returns_class_maps(network):
                masks = source
    before_test = _test(network, dataset, options, progress)
    inputs = Inputs(
        model=student.record(),
        data=source.record(dataset),
        teachers=tuple(teacher.record() for teacher in teachers),
    )
    history = finetune(
        network,
        dataset,
        teacher_networks,
        options,
        out=path,
        last=last or run.last,
        cache_folder=cache or run.folder / "cache",
        history=table,
        tensorboard=tensorboard,
        resume=resume,
        device=device,
        progress=progress,
        listen=listen,
    )
    test_metrics = tuple(_test(teacher, dataset, options, progress) for teacher in teacher_networks)
    if distributed.rank() == 0:
        run.add(
            FinetuneRecord(
                arguments=options.to_json(),
                seed=options.seed,
                inputs=inputs,
                outputs=output_files(finetuned=path, history=table),
                seconds=time.perf_counter() - began,
                metrics=FinetuneMetrics(
                    history.best_epoch,
                    history.val,
                    history.test,
                    test_metrics,
                    history.output_error,
                    history.test_output_error,
                ),
            )
        )
    return Finetuned(history, before, before_test, test_metrics, path, before_error, before_test_error, masks)


def _test(network: nn.Module, dataset: Dataset, options: TrainOptions, progress: Progress) -> Metrics | None:
    """Return the metrics of a network on the test split; None without one or without labels."""
    if "test" not in dataset.splits or not dataset.labelled:
        return None
    images = load_images(dataset, "test", Preprocessing.of(spec_of(network)), progress=progress)
    return evaluate(network, images.batches(options.batch_size), progress=progress)

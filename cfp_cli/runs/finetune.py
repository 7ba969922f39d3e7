"""`cfp finetune` in a run directory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cfp_cli.checkpoints.spec import spec_of
from cfp_cli.data.images import load_images
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.execution import distributed
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.measuring.metrics import Metrics, evaluate
from cfp_cli.runs.directory import Run
from cfp_cli.runs.inputs import DataInput, ModelInput, load_for, scored_data
from cfp_cli.runs.output_path import check_output, check_output_folder
from cfp_cli.runs.outputs import pruned_model
from cfp_cli.runs.records import FinetuneMetrics, FinetuneRecord, Inputs, ScoreRecord, output_files
from cfp_cli.training.finetune import finetune
from cfp_cli.training.history import History
from cfp_cli.training.loop import Listener
from cfp_cli.training.options import TrainOptions


@dataclass(frozen=True)
class Finetuned:
    """What a fine-tuning came to.

    Attributes:
        history: its epochs, and the metrics of the best one.
        before: metrics of the student on the validation split before fine-tuning.
        teachers: metrics of each teacher on the test split (None where there is no such split).
        out: the checkpoint.
    """

    history: History
    before: Metrics
    teachers: tuple[Metrics | None, ...]
    out: Path


def run_finetune(
    run: Run,
    model: ModelInput | None,
    data: DataInput | None,
    teachers: Sequence[ModelInput],
    options: TrainOptions,
    *,
    resume: bool = False,
    out: Path | None = None,
    tensorboard: Path | None = None,
    device: torch.device,
    progress: Progress = SILENT,
    listen: Listener | None = None,
) -> Finetuned:
    """Fine-tune the network that the run pruned; writes `RUN/finetuned.pt`, `RUN/last.pt` and `RUN/history.csv`.

    Args:
        run: the run directory.
        model: the student; None takes what the run's prune step wrote.
        data: the images; None takes those the run was scored with.
        teachers: one or two, the representation teacher first.
        options: of the training.
        resume: go on from `RUN/last.pt` where there is one.
        out: where the checkpoint goes, if not `RUN/finetuned.pt`.
        tensorboard: folder of TensorBoard logs.
        device: where to compute.
        progress: told of what takes long.
        listen: called with all rows after each epoch.

    Raises:
        CfpError: an input does not fit the run, or training cannot go on.
    """
    began = time.perf_counter()
    student = model or pruned_model(run)
    if run.latest(ScoreRecord) is None and data is not None:
        source, dataset = data, data.open(progress)
    else:
        source, dataset = scored_data(run, data, progress)
    path = out or run.finetuned
    files = [student.path, source.path, *(teacher.path for teacher in teachers)]
    check_output(path, inputs=files, run=run.folder, own=[run.finetuned.name])
    if tensorboard is not None:
        check_output_folder(tensorboard, inputs=files)
    network = load_for(dataset, student, progress).to(device)
    guides = [load_for(dataset, teacher, progress).to(device) for teacher in teachers]
    spec = spec_of(network)
    held_out = load_images(dataset, "val", Preprocessing.of(spec), progress=progress)
    before = evaluate(network, held_out.batches(options.batch_size), progress=progress)
    inputs = Inputs(
        model=student.record(),
        data=source.record(dataset),
        teachers=tuple(teacher.record() for teacher in teachers),
    )
    history = finetune(
        network,
        dataset,
        guides,
        options,
        out=path,
        last=run.last,
        cache_folder=run.folder / "cache",
        history=run.folder / "history.csv",
        tensorboard=tensorboard,
        resume=resume,
        device=device,
        progress=progress,
        listen=listen,
    )
    tested: list[Metrics | None] = [None] * len(guides)
    if "test" in dataset.splits:
        for index, guide in enumerate(guides):
            store = load_images(dataset, "test", Preprocessing.of(spec_of(guide)), progress=progress)
            tested[index] = evaluate(guide, store.batches(options.batch_size), progress=progress)
    if distributed.rank() == 0:
        run.add(
            FinetuneRecord(
                arguments=options.to_json(),
                seed=options.seed,
                inputs=inputs,
                outputs=output_files(finetuned=path),
                seconds=time.perf_counter() - began,
                metrics=FinetuneMetrics(history.best_epoch, history.val, history.test, tuple(tested)),
            )
        )
    return Finetuned(history, before, tuple(tested), path)

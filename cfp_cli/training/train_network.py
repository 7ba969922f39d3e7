"""The common part of `train` and `finetune`: images, checkpoint, loop and the final test."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from cfp_cli.checkpoints.fingerprint import fingerprint
from cfp_cli.checkpoints.save import save
from cfp_cli.checkpoints.spec import describe, spec_of
from cfp_cli.data.dataset import Dataset
from cfp_cli.data.samplers import Sampler
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.execution import distributed
from cfp_cli.foundation.errors import TrainingError, UsageError
from cfp_cli.foundation.progress import SILENT, Progress, working
from cfp_cli.measuring.metrics import evaluate
from cfp_cli.measuring.output_error import output_error
from cfp_cli.training.classes import require_classes
from cfp_cli.training.history import History
from cfp_cli.training.loop import Listener, TrainingData, TrainingFiles, fit
from cfp_cli.training.loss import Objective
from cfp_cli.training.options import TrainOptions
from cfp_cli.training.training_images import EVALUATION_BATCH, TrainingImages

MakeObjective = Callable[[TrainingImages, torch.device], Objective]

_NETWORK = {"train": "the network", "finetune": "the student"}
_DESCRIPTION = {"train": "training", "finetune": "fine-tuning"}


def train_network(
    model: nn.Module,
    dataset: Dataset,
    options: TrainOptions,
    make_objective: MakeObjective,
    stage: Literal["train", "finetune"],
    *,
    keep_start: bool,
    teacher_hashes: Mapping[str, str],
    out: Path,
    last: Path,
    history: Path,
    tensorboard: Path | None,
    resume: bool,
    device: torch.device | str,
    cache_folder: Path | None,
    budget: int,
    progress: Progress,
    listen: Listener | None,
    teacher: nn.Module | None = None,
) -> History:
    """Train a network, keep its best epoch on the validation split, and test it once.

    Args:
        model: the network, with a spec; on return it has the weights of the best epoch and is in eval mode.
        dataset: a dataset with the splits `train` and `val`, and optionally `test`.
        options: the training options.
        make_objective: builds the loss from the images and the device.
        stage: the stage, which is recorded in the checkpoint.
        keep_start: also choose from the network as it was before training, see `fit`.
        teacher_hashes: fingerprints of the teachers by name.
        out: checkpoint of the best epoch.
        last: state file, from which an interrupted run resumes.
        history: CSV file with one line per epoch.
        tensorboard: folder of TensorBoard logs, or None.
        resume: continue from `last` if it exists.
        device: the device of the computation.
        cache_folder: folder for decoded images that exceed the budget.
        budget: largest number of bytes of decoded images in memory, see `TrainingImages`.
        progress: reports progress.
        listen: called with all rows after each epoch.
        teacher: the network with whose outputs those of the network are compared on validation and test images without
            labels; None with labels.

    Raises:
        CheckpointError: the network has no spec.
        DataError: the classes differ, a split is missing, or too many images are broken.
        UsageError: `select` is the distillation loss, and there are no teachers.
        TrainingError: no parameter requires a gradient; for others see `fit`.
        KeyboardInterrupt: SIGINT or SIGTERM arrived; the state was saved.
    """
    workers, device = distributed.join(torch.device(device))
    progress = progress if workers.first else SILENT
    spec = spec_of(model)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise TrainingError(
            "no parameter of the network requires a gradient, so none would be trained; call network.requires_grad_()"
        )
    if stage == "train" and options.select == "loss":
        raise UsageError("--select loss is the distillation loss, which needs teachers; pass accuracy or macro_f1")
    if dataset.labelled:
        require_classes(spec.classes, dataset, _NETWORK[stage])
    preprocessing = Preprocessing.of(spec)
    images = TrainingImages(dataset, options, cache_folder, budget, progress)
    objective = make_objective(images, device)
    views = images.views(preprocessing)
    images.release_other_views(preprocessing)
    val_views = images.validation_views(preprocessing) if teacher is None and stage == "finetune" else None
    trained_spec = replace(spec, classes=dataset.classes or spec.classes).followed_by(
        stage,
        data=dataset.fingerprint,
        splits=dict(dataset.split_origin),
        options=options.to_json(),
        **teacher_hashes,
    )
    with working(progress, f"preparing {_DESCRIPTION[stage]}"):
        # Every optimiser of torch imports this module, which takes seconds.
        importlib.import_module("torch._dynamo")
    result = fit(
        model,
        TrainingData(
            views,
            views.labels,
            Sampler(options.sampler, views.labels, options.seed),
            images.evaluation_batches("val", preprocessing),
            dataset.classes or spec.classes,
            teacher,
            val_views.batches(EVALUATION_BATCH) if val_views is not None else None,
        ),
        objective,
        options,
        TrainingFiles(out, last, lambda path, network: save(path, network, trained_spec), history, tensorboard),
        identity={"model": fingerprint(model), "views": views.key, **teacher_hashes},
        resume=resume,
        device=device,
        progress=progress,
        listen=listen,
        keep_start=keep_start,
        description=_DESCRIPTION[stage],
    )
    describe(model, trained_spec)
    if "test" not in dataset.splits:
        return result
    test = images.evaluation_batches("test", preprocessing)
    if teacher is not None:
        return replace(result, test_output_error=output_error(model, teacher, test, classes=len(spec.classes)))
    return replace(result, test=evaluate(model, test, dataset.classes, progress))

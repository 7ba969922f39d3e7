"""Fine-tuning of a pruned student towards one or two frozen teachers whose logits are cached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from cfp_cli.checkpoints.fingerprint import fingerprint
from cfp_cli.checkpoints.save import save
from cfp_cli.checkpoints.spec import describe, spec_of
from cfp_cli.data.dataset import Dataset
from cfp_cli.data.decoding import DEFAULT_BUDGET
from cfp_cli.data.samplers import Sampler
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.execution import distributed
from cfp_cli.foundation.errors import UsageError
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.measuring.metrics import evaluate
from cfp_cli.training.history import History
from cfp_cli.training.loop import Data, Files, Listener, fit
from cfp_cli.training.loss import Distillation, class_weights
from cfp_cli.training.options import Sampling, TrainOptions
from cfp_cli.training.stores import Stores, require_classes
from cfp_cli.training.teacher import EVALUATION_BATCH, tested
from cfp_cli.training.teacher_cache import teacher_logits
from cfp_cli.training.teacher_check import check_classes, check_views

_NAMES = ("representation teacher", "classifier teacher")


def finetune(
    model: nn.Module,
    dataset: Dataset,
    teachers: Sequence[nn.Module],
    options: TrainOptions,
    *,
    out: Path,
    last: Path,
    cache_folder: Path,
    history: Path | None = None,
    tensorboard: Path | None = None,
    resume: bool = False,
    device: torch.device | str = "cpu",
    budget: int = DEFAULT_BUDGET,
    progress: Progress = SILENT,
    listen: Listener | None = None,
) -> History:
    """Fine-tune a student by knowledge fusion; its best epoch on the validation split is kept, and tested once.

    With two teachers L = l KD(s, RL) + (1 - l) KD(s, CL), l = cos(e/E pi/2) (Wang et al., IEEE TII 2023, doi
    10.1109/TII.2023.3288208); with one L = KD(s, RL). Teachers stay in eval mode. Student and teachers may differ in
    input size and normalisation: each sees the same view of an image in its own preprocessing.

    Args:
        model: the student, with a spec; left with the weights that were kept, in eval mode.
        dataset: with splits `train`, `val` and perhaps `test`.
        teachers: one or two networks with specs, the representation teacher first.
        options: of the training; the defaults are the paper's.
        out: checkpoint of the best epoch.
        last: state to go on from.
        cache_folder: where teachers' logits are kept, and decoded images that do not fit the budget.
        history: one line per epoch, as CSV; beside `out` by default.
        tensorboard: folder of TensorBoard logs.
        resume: go on from `last` where there is one.
        device: where to compute.
        budget: bytes of memory for the images of one store.
        progress: told of images, teachers, steps and epochs.
        listen: called with all rows after each epoch.

    Raises:
        UsageError: there are no teachers, or more than two.
        CheckpointError: a network carries no spec.
        DataError: classes differ, a split is missing, or too many images are broken.
        TrainingError: see `fit`.
        KeyboardInterrupt: SIGINT or SIGTERM came; the state has been written.
    """
    if not 1 <= len(teachers) <= 2:
        raise UsageError(f"{len(teachers)} teachers; pass one or two, the representation teacher first")
    workers, device = distributed.join(torch.device(device))
    progress = progress if workers.first else SILENT
    spec = spec_of(model)
    require_classes(spec.classes, dataset, "the student")
    for name, teacher in zip(_NAMES, teachers, strict=False):
        require_classes(spec_of(teacher).classes, dataset, f"the {name}")
    spec = replace(spec, classes=dataset.classes)
    preprocessing = Preprocessing.of(spec)
    stores = Stores(dataset, options, cache_folder, budget, progress)
    tables = [
        teacher_logits(
            teacher,
            stores.views(Preprocessing.of(spec_of(teacher))),
            len(dataset.classes),
            cache_folder,
            device=device,
            progress=progress,
            description=name,
        )
        for name, teacher in zip(_NAMES, teachers, strict=False)
    ]
    if workers.first:
        for name, teacher, table in zip(_NAMES, teachers, tables, strict=False):
            own = Preprocessing.of(spec_of(teacher))
            plain = evaluate(teacher, stores.plain("val", own).batches(EVALUATION_BATCH))
            check_views(name, table, stores.views(own).labels, plain, progress)
        # The last teacher is the one that is to bring in the rare classes.
        check_classes(name, plain, progress)
    views = stores.views(preprocessing)
    stores.keep_only(preprocessing)
    labels = views.labels
    weights = class_weights(labels, len(dataset.classes), draw_probability(options.sampler, labels))
    objective = Distillation(tables, options.epochs, options.temperature, options.label_weight, weights)
    hashes = {f"teacher_{number}": fingerprint(teacher) for number, teacher in enumerate(teachers, 1)}
    kept = spec.followed_by(
        "finetune", data=dataset.fingerprint, splits=dict(dataset.split_origin), options=options.to_json(), **hashes
    )
    result = fit(
        model,
        Data(
            views,
            labels,
            Sampler(options.sampler, labels, options.seed),
            stores.plain("val", preprocessing).batches(EVALUATION_BATCH),
            dataset.classes,
        ),
        objective,
        options,
        Files(
            out,
            last,
            lambda path, network: save(path, network, kept),
            history or out.with_name("history.csv"),
            tensorboard,
        ),
        identity={"model": fingerprint(model), "views": views.key, **hashes},
        resume=resume,
        device=device,
        progress=progress,
        listen=listen,
        description="fine-tuning",
    )
    describe(model, kept)
    return tested(model, stores, result, preprocessing, progress)


def draw_probability(sampler: Sampling, labels: Tensor) -> Tensor:
    """The probability with which a sampler's draw is each image, float64 [N].

    `instance`: 1/N. `balanced`: 1/(K n_c) with K classes and n_c images of the image's class. `sqrt`: proportional to
    1/sqrt(n_c).
    """
    counts = torch.bincount(labels).double()[labels]
    weights = {"instance": torch.ones_like(counts), "balanced": 1 / counts, "sqrt": 1 / counts.sqrt()}[sampler]
    return weights / weights.sum()

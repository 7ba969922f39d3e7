"""Training of a teacher: cross-entropy, with plain sampling (RL) or with class-balanced sampling (CL)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from cfp_cli.checkpoints.fingerprint import fingerprint
from cfp_cli.checkpoints.save import save
from cfp_cli.checkpoints.spec import describe, spec_of
from cfp_cli.data.dataset import Dataset
from cfp_cli.data.decoding import DEFAULT_BUDGET
from cfp_cli.data.samplers import Sampler
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.execution import distributed
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.measuring.metrics import evaluate
from cfp_cli.training.history import History
from cfp_cli.training.loop import Data, Files, Listener, fit
from cfp_cli.training.loss import CrossEntropy
from cfp_cli.training.options import TrainOptions
from cfp_cli.training.stores import Stores, require_classes

EVALUATION_BATCH = 128


def train(
    model: nn.Module,
    dataset: Dataset,
    options: TrainOptions,
    out: Path,
    *,
    last: Path | None = None,
    history: Path | None = None,
    tensorboard: Path | None = None,
    resume: bool = False,
    device: torch.device | str = "cpu",
    cache_folder: Path | None = None,
    budget: int = DEFAULT_BUDGET,
    progress: Progress = SILENT,
    listen: Listener | None = None,
) -> tuple[nn.Module, History]:
    """Train a network on a dataset; its best epoch on the validation split is kept, and tested once at the end.

    The paper's two teachers (Wang et al., IEEE TII 2023): the representation teacher with `sampler="instance"`, the
    classifier teacher with `sampler="balanced"`, which may start from the representation teacher's weights.

    Args:
        model: carries a spec; where training starts, left with the weights that were kept.
        dataset: with splits `train`, `val` and perhaps `test`.
        options: of the training; `teacher_options` gives the defaults.
        out: checkpoint of the best epoch.
        last: state to go on from; beside `out` by default, with the ending `.last.pt`.
        history: one line per epoch; beside `out` by default, with the ending `.history.csv`.
        tensorboard: folder of TensorBoard logs.
        resume: go on from `last` where there is one.
        device: where to compute.
        cache_folder: where decoded images go that do not fit the budget.
        budget: bytes of memory for the images of one store.
        progress: told of images, steps and epochs.
        listen: called with all rows after each epoch.

    Returns:
        The same network in eval mode, and the history with `val` and `test` of the kept weights.

    Raises:
        CheckpointError: the network carries no spec.
        DataError: classes differ, a split is missing, or too many images are broken.
        TrainingError: see `fit`.
        KeyboardInterrupt: SIGINT or SIGTERM came; the state has been written.
    """
    workers, device = distributed.join(torch.device(device))
    progress = progress if workers.first else SILENT
    spec = spec_of(model)
    require_classes(spec.classes, dataset, "the network")
    spec = replace(spec, classes=dataset.classes)
    preprocessing = Preprocessing.of(spec)
    stores = Stores(dataset, options, cache_folder, budget, progress)
    views = stores.views(preprocessing)
    val = stores.plain("val", preprocessing).batches(EVALUATION_BATCH)
    kept = spec.followed_by(
        "train", data=dataset.fingerprint, splits=dict(dataset.split_origin), options=options.to_json()
    )
    files = Files(
        out,
        last or out.with_suffix(".last.pt"),
        lambda path, network: save(path, network, kept),
        history or out.with_suffix(".history.csv"),
        tensorboard,
    )
    result = fit(
        model,
        Data(views, views.labels, Sampler(options.sampler, views.labels, options.seed), val, dataset.classes),
        CrossEntropy(),
        options,
        files,
        identity={"model": fingerprint(model), "views": views.key},
        resume=resume,
        device=device,
        progress=progress,
        listen=listen,
    )
    describe(model, kept)
    return model, tested(model, stores, result, preprocessing, progress)


def tested(
    model: nn.Module, stores: Stores, history: History, preprocessing: Preprocessing, progress: Progress
) -> History:
    """The history with the metrics of the test split, where there is one."""
    if "test" not in stores.dataset.splits:
        return history
    test = stores.plain("test", preprocessing).batches(EVALUATION_BATCH)
    return replace(history, test=evaluate(model, test, stores.dataset.classes, progress))

"""Fine-tuning of a pruned student by distillation from one or two frozen teachers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from cfp_cli.checkpoints.fingerprint import fingerprint
from cfp_cli.checkpoints.spec import spec_of
from cfp_cli.data.dataset import Dataset
from cfp_cli.data.decoding import DEFAULT_BUDGET
from cfp_cli.data.samplers import draw_probability
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.execution import distributed
from cfp_cli.foundation.errors import UsageError
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.training.classes import require_classes
from cfp_cli.training.history import History
from cfp_cli.training.loop import Listener
from cfp_cli.training.loss import Distillation, class_weights
from cfp_cli.training.options import TrainOptions
from cfp_cli.training.output_distillation import OutputDistillation, require_equal_outputs
from cfp_cli.training.teacher import Teacher
from cfp_cli.training.teacher_check import check_classes, check_views
from cfp_cli.training.train_network import train_network
from cfp_cli.training.training_images import TrainingImages

_NAMES = ("representation teacher", "class-balanced teacher")


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
    """Fine-tune a pruned student, keep its best epoch on the validation split, and test it once.

    With two teachers the loss is L = l KD(s, RL) + (1 - l) KD(s, CL), l = cos(e/E pi/2) (Wang et al., IEEE TII 2023,
    doi 10.1109/TII.2023.3288208). With one teacher it is L = KD(s, RL). s, RL and CL are the logits of the student, the
    representation teacher and the class-balanced teacher. Student and teachers may differ in input size and
    normalisation: each gets the same view of an image in its own preprocessing.

    Without labels the outputs may have any shapes, see `OutputDistillation`. The teachers then have the preprocessing
    of the student, and the kept epoch is the one whose outputs are nearest to the first teacher's.

    Args:
        model: the student, with a spec; on return it has the weights of the best epoch and is in eval mode.
        dataset: a dataset with the splits `train` and `val`, and optionally `test`.
        teachers: one or two networks with specs, the representation teacher first. They stay in eval mode.
        options: the training options, such as `TrainOptions.preset("student")`.
        out: checkpoint of the best epoch.
        last: state file, from which an interrupted run resumes.
        cache_folder: folder of the teachers' logits, and of decoded images that exceed the budget.
        history: CSV file with one line per epoch; by default `history.csv` beside `out`.
        tensorboard: folder of TensorBoard logs.
        resume: continue from `last` if it exists.
        device: the device of the computation.
        budget: largest number of bytes of decoded images in memory, for each split and preprocessing.
        progress: reports progress.
        listen: called with all rows after each epoch.

    Returns:
        The history, with the metrics of the best epoch on `val` and `test`.

    Raises:
        UsageError: there are no teachers, or more than two.
        CheckpointError: a network has no spec.
        DataError: the classes differ, a split is missing, or too many images are broken.
        TrainingError: the loss or a weight became NaN or infinite, or `last` belongs to another run.
        KeyboardInterrupt: SIGINT or SIGTERM arrived; the state was saved.
    """
    if not 1 <= len(teachers) <= 2:
        raise UsageError(f"{len(teachers)} teachers; pass one or two, the representation teacher first")
    networks = dict(zip(_NAMES, teachers, strict=False))
    student_preprocessing = Preprocessing.of(spec_of(model))
    if dataset.labelled:
        for name, network in networks.items():
            require_classes(spec_of(network).classes, dataset, f"the {name}")
    else:
        if options.label_weight:
            raise UsageError("--label-weight needs labels, and the images have none; leave it out")
        require_equal_outputs(model, teachers, [Preprocessing.of(spec_of(each)) for each in (model, *teachers)])

    def output_distillation(images: TrainingImages, device: torch.device) -> OutputDistillation:
        views = images.views(student_preprocessing)
        moved = [network.to(device) for network in teachers]
        classes = len(spec_of(model).classes)
        return OutputDistillation(
            moved, views, cache_folder, options.epochs, options.temperature, classes, images.progress
        )

    def distillation(images: TrainingImages, device: torch.device) -> Distillation:
        cached = [
            Teacher.with_logits(name, network, images, cache_folder, device) for name, network in networks.items()
        ]
        if distributed.current().first:
            _check(cached, images)
        labels = images.views(student_preprocessing).labels
        weights = class_weights(labels, len(dataset.classes), draw_probability(options.sampler, labels))
        return Distillation(
            [teacher.logits for teacher in cached],
            options.epochs,
            options.temperature,
            options.label_weight,
            weights,
            [teacher.val_logits for teacher in cached],
        )

    return train_network(
        model,
        dataset,
        options,
        distillation if dataset.labelled else output_distillation,
        "finetune",
        keep_start=True,
        teacher_hashes={f"teacher_{number}": fingerprint(network) for number, network in enumerate(teachers, 1)},
        out=out,
        last=last,
        history=history or out.with_name("history.csv"),
        tensorboard=tensorboard,
        resume=resume,
        device=device,
        cache_folder=cache_folder,
        budget=budget,
        progress=progress,
        listen=listen,
        teacher=None if dataset.labelled else teachers[0],
    )


def _check(teachers: Sequence[Teacher], images: TrainingImages) -> None:
    """Warn about teachers from which a student cannot learn well."""
    for teacher in teachers:
        labels = images.views(teacher.preprocessing).labels
        check_views(teacher.name, teacher.logits, labels, teacher.val, images.progress)
    # The last teacher is the class-balanced one, which must recognise the rare classes.
    check_classes(teachers[-1].name, teachers[-1].val, images.progress)

"""`cfp demo`: the whole pipeline on a generated defect set."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch

from cfp_cli.data.synthetic import generate
from cfp_cli.foundation.errors import MissingExtraError, RunError
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.pruning.options import PruneOptions
from cfp_cli.runs.directory import Run
from cfp_cli.runs.export import run_export
from cfp_cli.runs.finetune import Finetuned, run_finetune
from cfp_cli.runs.inputs import DataInput, ModelInput
from cfp_cli.runs.prune import Pruned, run_prune
from cfp_cli.runs.report import run_report
from cfp_cli.runs.score import ScoreOptions, run_score
from cfp_cli.runs.train import run_train
from cfp_cli.training.loop import Listener
from cfp_cli.training.options import TrainOptions

ARCH = "dddn"
SIZE = 64
INPUT_SIZE = 48
PER_CLASS = 240
TEST_PER_CLASS = 50
IMBALANCE = 3.0
TEACHER_EPOCHS = 14
BALANCED_EPOCHS = 4
STUDENT_EPOCHS = 40
RATIO = 0.95

Telling = Callable[[TrainOptions], AbstractContextManager[Listener | None]]


@dataclass(frozen=True)
class Demo:
    """What the demo came to."""

    data: Path
    pruned: Pruned
    finetuned: Finetuned
    export: Path | None
    report: Path | None


def run_demo(run: Run, *, seed: int, device: torch.device, telling: Telling, progress: Progress = SILENT) -> Demo:
    """Generate a defect set, train two teachers, score, prune by 95 %, fine-tune, export and report.

    Args:
        run: the run directory; one that holds another run is refused.
        seed: seed of the images and of every random choice.
        device: where to compute.
        telling: gives the listener to the epochs of a training, by its options.
        progress: told of what takes long.

    Raises:
        RunError: the directory holds a run that is not a demo.
        CfpError: a step fails.
    """
    folder = run.folder / "demo"
    images = folder / "data"
    if run.records and not folder.is_dir():
        raise RunError(f"{run.folder} holds another run; pass --run DIR for the demo")
    if not images.is_dir():
        progress.say(f"generating surface defects in {images}")
        generate(images, PER_CLASS, TEST_PER_CLASS, SIZE, seed, IMBALANCE, progress=progress)
    data = DataInput(images, seed)
    representation, classifier = folder / "rl.pt", folder / "cl.pt"
    teacher = TrainOptions(
        epochs=TEACHER_EPOCHS, batch_size=32, lr=1e-3, weight_decay=5e-4, augment="strong", views=4, seed=seed
    )
    progress.say("training the representation teacher")
    with telling(teacher) as listen:
        run_train(
            data, ARCH, representation, teacher, input_size=INPUT_SIZE, device=device, progress=progress, listen=listen
        )
    progress.say("training the class-balanced teacher")
    balanced = TrainOptions(
        epochs=BALANCED_EPOCHS,
        batch_size=32,
        lr=2e-4,
        weight_decay=5e-4,
        sampler="balanced",
        augment="strong",
        views=4,
        seed=seed,
    )
    start = ModelInput(representation)
    with telling(balanced) as listen:
        run_train(data, None, classifier, balanced, init=start, device=device, progress=progress, listen=listen)
    progress.say("scoring the channels")
    run_score(run, start, data, ScoreOptions(images=256, seed=seed), device=device, progress=progress)
    progress.say(f"pruning {RATIO:.0%} of the parameters")
    pruned = run_prune(run, None, PruneOptions(ratio=RATIO), seed=seed, device=device, progress=progress)
    progress.say("fine-tuning with both teachers")
    student = TrainOptions(
        epochs=STUDENT_EPOCHS, batch_size=32, lr=2e-3, weight_decay=5e-4, augment="strong", views=4, seed=seed
    )
    with telling(student) as listen:
        finetuned = run_finetune(
            run,
            None,
            None,
            [start, ModelInput(classifier)],
            student,
            device=device,
            progress=progress,
            listen=listen,
        )
    exported = _unless_missing(
        progress, lambda: run_export(run, None, None, run.folder / "finetuned.onnx", "onnx", progress=progress).path
    )
    reported = _unless_missing(progress, lambda: run_report(run, device=device, progress=progress).out)
    return Demo(images, pruned, finetuned, exported, reported)


def _unless_missing(progress: Progress, step: Callable[[], Path]) -> Path | None:
    """Take a step that needs an optional package, and tell where it is not installed."""
    try:
        return step()
    except MissingExtraError as error:
        progress.say(f"left out: {error}")
        return None

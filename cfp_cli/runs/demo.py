"""`cfp demo`: the complete pipeline on a generated set of defect images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cfp_cli.data.synthetic import generate
from cfp_cli.foundation.errors import RunError
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.pruning.options import PruneOptions
from cfp_cli.runs.directory import Run
from cfp_cli.runs.export import run_export
from cfp_cli.runs.finetune import Finetuned, run_finetune
from cfp_cli.runs.if_installed import if_installed
from cfp_cli.runs.inputs import DataInput, ModelInput
from cfp_cli.runs.prune import Pruned, run_prune
from cfp_cli.runs.report import run_report
from cfp_cli.runs.score import ScoreOptions, run_score
from cfp_cli.runs.train import run_train
from cfp_cli.training.loop import ShowEpochs
from cfp_cli.training.options import TrainOptions

ARCH = "dddn"
SIZE = 64
INPUT_SIZE = (48, 48)
PER_CLASS = 240
TEST_PER_CLASS = 50
IMBALANCE = 3.0
TEACHER_EPOCHS = 14
BALANCED_EPOCHS = 4
STUDENT_EPOCHS = 40
RATIO = 0.95


@dataclass(frozen=True)
class Demo:
    """The files and results of the demo; `export` and `report` are None if their package is not installed."""

    data: Path
    pruned: Pruned
    finetuned: Finetuned
    export: Path | None
    report: Path | None


def run_demo(
    run: Run, *, seed: int, device: torch.device, show_epochs: ShowEpochs, progress: Progress = SILENT
) -> Demo:
    """Generate a defect set, train two teachers, score, prune by 95 %, fine-tune, export and report.

    Args:
        run: the run directory; a directory of another run is refused.
        seed: seed of the images and of every random choice.
        device: where to compute.
        show_epochs: opens a context that shows the epochs of a training with these options.
        progress: reports progress.

    Raises:
        RunError: the directory contains a run that is not a demo.
        CfpError: a part of the pipeline fails.
    """
    folder = run.folder / "demo"
    images = folder / "data"
    if run.records and not folder.is_dir():
        raise RunError(f"{run.folder} contains another run; pass another --run DIR for the demo")
    if not images.is_dir():
        progress.say(f"generating images of surface defects in {images}")
        generate(images, PER_CLASS, TEST_PER_CLASS, SIZE, seed, IMBALANCE, progress=progress)
    data = DataInput(images, seed)
    representation, class_balanced = folder / "rl.pt", folder / "cl.pt"
    teacher = TrainOptions.preset("teacher", epochs=TEACHER_EPOCHS, batch_size=32, lr=1e-3, views=4, seed=seed)
    progress.say("training the representation teacher")
    with show_epochs(teacher) as listen:
        run_train(
            data, ARCH, representation, teacher, input_size=INPUT_SIZE, device=device, progress=progress, listen=listen
        )
    progress.say("training the class-balanced teacher")
    balanced = replace(teacher, epochs=BALANCED_EPOCHS, lr=2e-4, sampler="balanced")
    start = ModelInput(representation)
    with show_epochs(balanced) as listen:
        run_train(data, None, class_balanced, balanced, init=start, device=device, progress=progress, listen=listen)
    progress.say("scoring the channels")
    run_score(run, start, data, ScoreOptions(images=256, seed=seed), device=device, progress=progress)
    progress.say(f"pruning {RATIO:.0%} of the parameters")
    pruned = run_prune(run, None, PruneOptions(ratio=RATIO), seed=seed, device=device, progress=progress)
    progress.say("fine-tuning with both teachers")
    student = replace(teacher, epochs=STUDENT_EPOCHS, lr=2e-3)
    with show_epochs(student) as listen:
        finetuned = run_finetune(
            run,
            None,
            None,
            [start, ModelInput(class_balanced)],
            student,
            device=device,
            progress=progress,
            listen=listen,
        )
    exported = if_installed(
        progress, lambda: run_export(run, None, None, run.folder / "finetuned.onnx", "onnx", progress=progress).path
    )
    reported = if_installed(progress, lambda: run_report(run, device=device, progress=progress).out)
    return Demo(images, pruned, finetuned, exported, reported)

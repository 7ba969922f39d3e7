"""`cfp finetune [MODEL] [DATA] --teachers RL.pt CL.pt`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cfp_cli.commands.console import Console
from cfp_cli.commands.figures import INTERVALS, collapse_verdict, figure, worst_class
from cfp_cli.commands.kept_epoch import kept_epoch
from cfp_cli.commands.model_options import ModelOptions, model_options
from cfp_cli.commands.next_command import next_command
from cfp_cli.commands.options import (
    Compute,
    device_options,
    examples,
    output_options,
    pass_console,
    run_option,
    seed_option,
)
from cfp_cli.commands.several import takes_several
from cfp_cli.commands.tables import sentence
from cfp_cli.commands.training import show_epochs, take_options, training_options
from cfp_cli.execution import launch
from cfp_cli.runs.command_line import DEFAULT_RUN
from cfp_cli.training.restart import replacing

if TYPE_CHECKING:
    from rich.table import Table

    from cfp_cli.measuring.metrics import Metrics
    from cfp_cli.runs.finetune import Finetuned
    from cfp_cli.training.options import Select


@click.command(
    short_help="Fine-tune the pruned model with two teachers.",
    cls=takes_several({"--teachers": 2}),
    epilog=examples(
        "cfp finetune --teachers rl.pt cl.pt",
        "cfp finetune pruned.pt data/ --teachers rl.pt cl.pt --epochs 100",
        "cfp finetune --teachers rl.pt cl.pt --resume",
    ),
)
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.argument("data", type=click.Path(path_type=Path), required=False)
@click.option(
    "--teachers",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    metavar="RL.pt [CL.pt]",
    help="Unpruned teachers: the representation teacher, then the class-balanced teacher, which is optional.",
)
@model_options
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Checkpoint.  [default: RUN/finetuned.pt]")
@click.option(
    "--tensorboard",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder of TensorBoard logs. Needs the package tensorboard: pip install tensorboard.",
)
@training_options("student", distillation=True)
@run_option
@seed_option
@device_options
@output_options
@pass_console
def finetune(
    console: Console,
    /,
    model: Path | None,
    data: Path | None,
    teachers: tuple[Path, ...],
    how: ModelOptions,
    out: Path | None,
    tensorboard: Path | None,
    resume: bool,
    run_folder: Path,
    seed: int,
    compute: Compute,
    **values: Any,
) -> None:
    """Fine-tune the pruned model by distillation from two teachers, and keep the best epoch on the validation split.

    MODEL defaults to the output of `cfp prune`, and DATA to the images of `cfp score`. --preset paper trains as
    the paper does: --epochs 300 --lr 5e-5 --batch-size 128 --augment paper --ema 0.
    """
    # Before torch is imported: a kill at any later moment must leave the new run able to start with --resume.
    with replacing(run_folder / "last.pt", active=not resume and launch.rank() == 0):
        from cfp_cli.runs.directory import Run
        from cfp_cli.runs.finetune import run_finetune
        from cfp_cli.runs.inputs import DataInput

        options = take_options(values, seed=seed)
        with Run.exclusive(run_folder) as run, show_epochs(console, options) as listen:
            done = run_finetune(
                run,
                how.file(model) if model is not None else None,
                DataInput(data, seed) if data is not None else None,
                [how.file(teacher) for teacher in teachers],
                options,
                resume=resume,
                out=out,
                tensorboard=tensorboard,
                permission=how.permission,
                device=compute.device,
                progress=console,
                listen=listen,
            )
    data_out = {name: value for name, value in done.history.to_json().items() if name != "rows"}
    console.result(
        {**data_out, "out": str(done.out)},
        *(summary_tables(done) if done.before is not None else [error_table(done)]),
        *verdicts(done, options.select),
        f"written {done.out}",
        _following(done, run_folder, how.factory),
    )


def _following(done: Finetuned, run_folder: Path, arch: str | None) -> str:
    """Return the line with the next command: the comparison with masks if there are masks, else the export."""
    if done.masks is None:
        return next_command(run_folder, "export", "--format", "onnx", "--out", "small.onnx", arch=arch)
    seed = ["--seed", str(done.masks.seed)] if done.masks.seed else []
    # `cfp eval` reads no run directory.
    return next_command(DEFAULT_RUN, "eval", done.out, done.masks.path, *seed, arch=arch)


def summary_tables(done: Finetuned) -> list[Table]:
    """The metrics of the teachers, and of the student before and after fine-tuning: one table for each split."""
    history = done.history
    validation: list[tuple[str, Metrics | None]] = [("student before", done.before)]
    tested = [(f"teacher {number}", each) for number, each in enumerate(done.teachers, 1)]
    tested.append(("student before", done.before_test))
    if history.best_epoch >= 0:
        after = f"student after epoch {history.best_epoch + 1}"
        validation.append((after, history.val))
        tested.append((after, history.test))
    # Figures on different images must not be compared, so each split has a table of its own.
    return [
        _split_table(f"{split} images: {purpose}", [(name, each) for name, each in rows if each is not None])
        for split, purpose, rows in (
            ("validation", "they chose the epoch", validation),
            ("test", "compare and report these", tested),
        )
        if any(each is not None for _, each in rows)
    ]


def error_table(done: Finetuned) -> Table:
    """The error of the student's outputs before and after fine-tuning, without labels."""
    from rich.table import Table

    table = Table("student", "validation", "test", title="error of the outputs, against the first teacher")
    rows: list[tuple[str, float | None, float | None]] = [("before", done.before_error, done.before_test_error)]
    if done.history.best_epoch >= 0:
        label = f"after epoch {done.history.best_epoch + 1}"
        rows.append((label, done.history.output_error, done.history.test_output_error))
    for name, *errors in rows:
        table.add_row(sentence(name), *("" if error is None else f"{error:.2%}" for error in errors))
    return table


def _split_table(title: str, rows: Sequence[tuple[str, Metrics]]) -> Table:
    from rich.table import Table

    table = Table("network", "accuracy", "macro-F1", "worst class", title=title, caption=INTERVALS)
    for name, each in rows:
        table.add_row(sentence(name), figure(each, "accuracy"), figure(each, "macro_f1"), worst_class(each))
    return table


def verdicts(done: Finetuned, select: Select) -> tuple[str, ...]:
    """Lines about the epoch that was kept, and about a student that collapsed."""
    metrics = done.history.test or done.history.val
    kept = kept_epoch(done.history, select, "the student before fine-tuning")
    if metrics is None:
        return kept
    return (
        *kept,
        *collapse_verdict(metrics, done.out.name, "prune less, use a lower --lr, or more epochs"),
    )

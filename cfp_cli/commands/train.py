"""`cfp train DATA --arch A --out X.pt`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cfp_cli.commands.console import Console
from cfp_cli.commands.model_options import ModelOptions, model_options
from cfp_cli.commands.next_command import next_command
from cfp_cli.commands.options import (
    Compute,
    Reading,
    data_options,
    device_options,
    examples,
    output_options,
    pass_console,
    seed_option,
)
from cfp_cli.commands.training import show_epochs, take_options, training_options
from cfp_cli.execution import launch
from cfp_cli.runs.command_line import DEFAULT_RUN
from cfp_cli.runs.fold_outputs import outputs_of
from cfp_cli.runs.output_path import check_output
from cfp_cli.training.restart import replacing

REMEDY = "use an earlier checkpoint, or train it with a lower --lr or more epochs"

if TYPE_CHECKING:
    from rich.table import Table

    from cfp_cli.runs.train import CrossValidation


@click.command(
    short_help="Train a teacher.",
    epilog=examples(
        "cfp train data/ --arch vgg16_bn_gap --input-size 64 --out rl.pt",
        "cfp train data/ --init rl.pt --sampler balanced --epochs 10 --out cl.pt",
        "cfp train data/ --init rl.pt --new-head --out new.pt",
        "cfp train data/ --arch vgg16_bn_gap --folds 5 --out rl.pt",
    ),
)
@click.argument("data", type=click.Path(path_type=Path))
@model_options
@click.option("--init", type=click.Path(path_type=Path), default=None, help="Checkpoint to start from.")
@click.option("--new-head", is_flag=True, help="With --init: replace the head, for data with other classes.")
@click.option(
    "--channels",
    type=click.IntRange(1, 4096),
    default=None,
    help="Channels of the images: 1 for grey, 3 for colours.  [default: those of the architecture]",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Checkpoint to write.")
@click.option(
    "--folds",
    type=click.IntRange(2, 1000),
    default=None,
    help="First train a network on each of this many stratified folds, and show mean and spread of their results.",
)
@click.option(
    "--tensorboard",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder of TensorBoard logs. Needs the package tensorboard: pip install tensorboard.",
)
@data_options
@training_options("teacher", distillation=False)
@seed_option
@device_options
@output_options
@pass_console
def train(
    console: Console,
    /,
    data: Path,
    how: ModelOptions,
    init: Path | None,
    new_head: bool,
    channels: int | None,
    out: Path,
    folds: int | None,
    tensorboard: Path | None,
    reading: Reading,
    resume: bool,
    seed: int,
    compute: Compute,
    **values: Any,
) -> None:
    """Train a teacher on DATA and keep the best epoch on the validation split.

    Train the representation teacher with --sampler instance. Train the class-balanced teacher with --sampler balanced,
    and with --init to start from the representation teacher.

    On a small set of images, one test split says little. --folds 5 divides all images, except a test split of your own,
    into five parts; a network that is trained on the others is tested on each part. It takes five times longer and
    writes X.fold-1.pt to X.fold-5.pt beside X.pt, which is the same as without --folds.
    """
    check_output(out)
    # Before torch is imported: a kill at any later moment must leave the new run able to start with --resume.
    with ExitStack() as stack:
        # The first fold comes last: without its mark, a resume is refused before anything is trained.
        for path in reversed(outputs_of(out, folds or 0)):
            stack.enter_context(replacing(path.with_suffix(".last.pt"), active=not resume and launch.rank() == 0))
        from cfp_cli.commands.eval import metrics_table
        from cfp_cli.commands.figures import collapse_verdict
        from cfp_cli.commands.kept_epoch import kept_epoch
        from cfp_cli.runs.directory import lock_output
        from cfp_cli.runs.train import run_train

        options = take_options(values, seed=seed)
        with lock_output(out), show_epochs(console, options) as listen:
            trained = run_train(
                reading.data(data, seed),
                how.arch,
                out,
                options,
                input_size=how.input_size,
                mean=how.mean,
                std=how.std,
                channels=channels,
                init=how.file(init) if init is not None else None,
                new_head=new_head,
                folds=folds or 0,
                resume=resume,
                tensorboard=tensorboard,
                device=compute.device,
                progress=console,
                listen=listen,
            )
    # The network that is pruned is the representation teacher.
    scored = init if init is not None and options.sampler == "balanced" else out
    history = trained.history
    split, metrics = ("test", history.test) if history.test else ("val", history.val)
    assert metrics is not None, "training needs labels"
    data_out = {name: value for name, value in history.to_json().items() if name != "rows"}
    cross_validation = trained.folds.to_json() if trained.folds else None
    console.result(
        {**data_out, "out": str(out), "cross_validation": cross_validation},
        metrics_table(metrics, f"{out.name} on {split}"),
        *([_folds_table(trained.folds)] if trained.folds else []),
        *kept_epoch(history, options.select, str(init or "the network before training")),
        *collapse_verdict(metrics, out.name, REMEDY),
        f"written {out}",
        next_command(DEFAULT_RUN, "score", scored, data, arch=how.factory),
    )


def _folds_table(results: CrossValidation) -> Table:
    from rich.table import Table

    from cfp_cli.runs.train import FOLD_METRICS

    names = [metric.replace("_", " ").replace("f1", "F1") for metric in FOLD_METRICS]
    table = Table("fold", *names, title=f"{len(results.outs)} folds")
    columns = [results.values(metric) for metric in FOLD_METRICS]
    for number, values in enumerate(zip(*columns, strict=True), 1):
        table.add_row(str(number), *(f"{value:.2%}" for value in values))
    table.add_row(
        "mean ± sd", *(f"{results.mean(metric):.2%} ± {100 * results.spread(metric):.2f}" for metric in FOLD_METRICS)
    )
    return table

"""`cfp shrink MODEL DATA`."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from cfp_cli.commands.console import Console
from cfp_cli.commands.figures import collapse_verdict, guessing_verdict
from cfp_cli.commands.model_options import ModelOptions, model_options
from cfp_cli.commands.next_command import IMAGES, next_command
from cfp_cli.commands.options import (
    Compute,
    FiniteRange,
    Reading,
    compute_options,
    data_options,
    examples,
    output_options,
    pass_console,
    run_option,
    seed_option,
    shrink_channel_options,
    target_name,
)
from cfp_cli.commands.several import takes_several
from cfp_cli.commands.shrink_figures import frontier_table, loss_on_test, result_tables, speed, verdict
from cfp_cli.foundation.errors import UsageError
from cfp_cli.measuring.runtimes import RUNTIMES, Runtime
from cfp_cli.pruning.options import ALLOCATIONS, TARGETS, Target
from cfp_cli.runs.command_line import DEFAULT_RUN, shown_path
from cfp_cli.training.options import TrainOptions

SHORT = TrainOptions.preset("short")
METRICS = {"macro-f1": "macro_f1", "accuracy": "accuracy", "agreement": "agreement"}
REMEDY = "use a smaller --max-loss"
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}
_FINETUNING = ("teachers", "epochs", "lr", "views", "freeze_norm")


def _require_finetuning() -> None:
    """Refuse options of the fine-tuning if there is none.

    Raises:
        UsageError: the current command was given such an option on the command line.
    """
    context = click.get_current_context()
    given = [name for name in _FINETUNING if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if given:
        options = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(f"{options}: the fine-tuning is off; leave this out, or pass --finetune")


def _duration(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> float | None:
    """Parse a time such as `15m` or `900`, to seconds.

    Raises:
        click.BadParameter: the text is not a time.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip().lower())
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if not 0 < seconds < math.inf:
        raise click.BadParameter(f"'{text}' is not a time such as 15m, 90s or 2h")
    return seconds


@click.command(
    short_help="Find the smallest network within a loss of accuracy.",
    cls=takes_several({"--teachers": 2}),
    epilog=examples(
        "cfp shrink model.pt data/ --max-loss 0.5",
        "cfp shrink rl.pt data/ --teachers rl.pt cl.pt --time-limit 15m",
        "cfp shrink model.pt data/ --target macs --budget 'params<=400k' --budget 'macs<=20M'",
        "cfp shrink model.pt data/ --target latency --runtime onnxruntime --threads 2",
        "cfp shrink model.pt data/ --budget 'latency<=2ms' --budget 'bytes<=500k'",
    ),
)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--max-loss",
    type=FiniteRange(0, 100),
    default=0.5,
    show_default=True,
    help="Largest loss with its standard error, in points, on the validation images and on flipped, turned and "
    "cropped views of them.",
)
@click.option(
    "--metric",
    type=click.Choice(list(METRICS)),
    default="macro-f1",
    show_default=True,
    help="Metric of the loss. agreement counts images for which the original predicts another class; it needs no "
    "labels and no class folders.",
)
@click.option(
    "--target",
    type=click.Choice([*TARGETS, "flops"]),
    default="params",
    show_default=True,
    callback=target_name,
    help="What is made small: parameters, multiply-adds (also flops), latency on this machine, or bytes of the ONNX "
    "file.",
)
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    metavar="COST<=N",
    help="What the result may cost at most, such as 'params<=400k', 'macs<=20M', 'latency<=2ms' or 'bytes<=500k'. "
    "Repeatable.",
)
@click.option(
    "--runtime",
    type=click.Choice(RUNTIMES),
    default=None,
    help="Runtime of the latency, on the CPU with --threads.  [default: onnxruntime, or torch if it is not installed]",
)
@click.option(
    "--batch",
    type=click.IntRange(1, 65_536),
    default=1,
    show_default=True,
    help="Images per batch of the latency.",
)
@click.option(
    "--teachers",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="RL.pt [CL.pt]",
    help="Teachers of the fine-tuning.  [default: MODEL, and a class-balanced teacher if the classes are unbalanced]",
)
@click.option(
    "--time-limit",
    default=None,
    callback=_duration,
    metavar="TIME",
    help="Begin no candidate that would end later, such as 15m. Test, export and report follow, some minutes more.  "
    "[default: none]",
)
@click.option(
    "--finetune/--no-finetune",
    default=True,
    show_default=True,
    help="Fine-tune candidates near the border; otherwise candidates are refitted only.",
)
@click.option(
    "--epochs",
    type=click.IntRange(1, 100_000),
    default=SHORT.epochs,
    show_default=True,
    help="Epochs of each fine-tuning.",
)
@click.option("--lr", type=float, default=SHORT.lr, show_default=True, help="Learning rate after the warm-up.")
@click.option(
    "--views",
    type=click.IntRange(1, 1_000),
    default=SHORT.views,
    show_default=True,
    help="Views of each image in training.",
)
@click.option(
    "--freeze-norm",
    is_flag=True,
    help="Keep the statistics of batch norm in the fine-tuning, as `cfp finetune` does with this option.",
)
@click.option(
    "--allocation",
    type=click.Choice(ALLOCATIONS),
    default=None,
    show_default="measured for macs and latency if there are 32 training images, else redundancy",
    help="How what is removed is spread over the channel sets, as in `cfp prune`.",
)
@click.option(
    "--candidates",
    type=click.IntRange(1, 100_000),
    default=4,
    show_default=True,
    help="Number of networks that --allocation measured tries for each compression.",
)
@shrink_channel_options
@model_options
@data_options
@run_option
@seed_option
@compute_options(batch_size=64)
@output_options
@pass_console
def shrink(
    console: Console,
    model: Path,
    data: Path,
    max_loss: float,
    metric: str,
    target: Target,
    budgets: tuple[str, ...],
    runtime: Runtime | None,
    batch: int,
    teachers: tuple[Path, ...],
    time_limit: float | None,
    finetune: bool,
    epochs: int,
    lr: float,
    views: int,
    freeze_norm: bool,
    how: ModelOptions,
    reading: Reading,
    run_folder: Path,
    seed: int,
    compute: Compute,
    **prune: Any,
) -> int:
    """Find the smallest network whose validation result is within --max-loss points of MODEL.

    Scores MODEL, measures refitted networks without training, fine-tunes only those near the border, tests the chosen
    one once, exports it and writes a report. Repeat the command to continue an interrupted one: measured candidates are
    kept in the run directory, also for another --max-loss. If no network is within the loss, the best one is written
    and the exit code is 3.
    """
    from cfp_cli.execution.pool import StoppedError
    from cfp_cli.measuring.loss_rule import LossRule
    from cfp_cli.pruning.frontier import Budget
    from cfp_cli.runs.directory import Run
    from cfp_cli.runs.shrink import run_shrink
    from cfp_cli.runs.shrink_options import ShrinkOptions, short_training

    if not finetune:
        _require_finetuning()
    options = ShrinkOptions(
        rule=LossRule(max_loss, METRICS[metric]),  # type: ignore[arg-type]
        target=target,
        budgets=tuple(map(Budget.parse, budgets)),
        runtime=runtime,
        threads=compute.threads,
        batch=batch,
        finetune=finetune,
        training=short_training(epochs=epochs, lr=lr, views=views, freeze_norm=freeze_norm, seed=seed),
        time_limit=time_limit,
        batch_size=compute.batch_size,
        seed=seed,
        **prune,
    )
    device = compute.device
    try:
        with Run.exclusive(run_folder) as run:
            done = run_shrink(
                run,
                how.file(model),
                reading.data(data, seed),
                options,
                teachers=[how.file(each) for each in teachers],
                permission=how.permission,
                device=device,
                progress=console,
            )
    except StoppedError as error:
        # The process that failed prints the only message.
        return error.exit_code
    tested = done.metrics.test or done.metrics.val
    console.result(
        done.to_json(),
        frontier_table(done),
        *result_tables(done),
        *verdict(done),
        *speed(done),
        *loss_on_test(done.metrics),
        *guessing_verdict(done.metrics.original_val, "the original"),
        *collapse_verdict(tested, done.out.name, REMEDY),
        *(f"written {shown_path(path)}" for path in (done.out, done.export, done.report) if path is not None),
        next_command(
            DEFAULT_RUN, "predict", done.export or done.out, IMAGES, arch=None if done.export else how.factory
        ),
    )
    return 0 if done.metrics.met else 3

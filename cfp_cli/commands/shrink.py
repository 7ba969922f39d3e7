"""`cfp shrink MODEL DATA`."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from cfp_cli.commands.console import Console
from cfp_cli.commands.figures import INTERVALS, collapse_verdict, figure, guessing_verdict, worst_class
from cfp_cli.commands.model_options import ModelOptions, model_options
from cfp_cli.commands.next_command import IMAGES, next_command
from cfp_cli.commands.options import (
    Compute,
    FiniteRange,
    Reading,
    channel_options,
    compute_options,
    data_options,
    examples,
    output_options,
    pass_console,
    run_option,
    seed_option,
    target_name,
)
from cfp_cli.commands.several import takes_several
from cfp_cli.commands.tables import sentence
from cfp_cli.commands.training import show_epochs
from cfp_cli.pruning.options import RULES
from cfp_cli.runs.command_line import DEFAULT_RUN, shown_path
from cfp_cli.training.options import TrainOptions

if TYPE_CHECKING:
    from rich.table import Table

    from cfp_cli.runs.records import ShrinkMetrics
    from cfp_cli.runs.shrink import Shrunk

SHORT = TrainOptions.preset("short")
METRICS = {"macro-f1": "macro_f1", "accuracy": "accuracy", "agreement": "agreement"}
NAMES = {"macro_f1": "macro-F1", "accuracy": "accuracy", "agreement": "agreement with the original"}
REMEDY = "use a smaller --max-loss"
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}


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
    ),
)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--max-loss",
    type=FiniteRange(0, 100),
    default=0.5,
    show_default=True,
    help="Largest loss on the validation images, in points.",
)
@click.option(
    "--margin",
    type=FiniteRange(0, 100),
    default=5.0,
    show_default=True,
    help="The validation images must rule out a loss of accuracy of more than --max-loss plus this many points.",
)
@click.option(
    "--metric",
    type=click.Choice(list(METRICS)),
    default="macro-f1",
    show_default=True,
    help="Metric of the loss. agreement counts images for which the original predicts another class.",
)
@click.option(
    "--target",
    type=click.Choice(["params", "macs", "flops"]),
    default="params",
    show_default=True,
    callback=target_name,
    help="What is made small: parameters or multiply-adds (also flops).",
)
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    metavar="COST<=N",
    help="What the result may cost at most, such as 'params<=400k' or 'macs<=20M'. Repeatable.",
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
    help="Begin no candidate that would end later, such as 15m.  [default: none]",
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
    "--allocation",
    type=click.Choice(RULES),
    default="redundancy",
    show_default=True,
    help="How what is removed is spread over the channel sets, as in `cfp prune`.",
)
@channel_options
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
    margin: float,
    metric: str,
    target: Literal["params", "macs"],
    budgets: tuple[str, ...],
    teachers: tuple[Path, ...],
    time_limit: float | None,
    finetune: bool,
    epochs: int,
    lr: float,
    views: int,
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
    from cfp_cli.measuring.loss_rule import LossRule
    from cfp_cli.pruning.frontier import Budget
    from cfp_cli.runs.directory import Run
    from cfp_cli.runs.shrink import run_shrink
    from cfp_cli.runs.shrink_options import ShrinkOptions

    options = ShrinkOptions(
        rule=LossRule(max_loss, margin, METRICS[metric]),  # type: ignore[arg-type]
        target=target,
        budgets=tuple(map(Budget.parse, budgets)),
        finetune=finetune,
        training=TrainOptions.preset(
            "short",
            epochs=epochs,
            lr=lr,
            views=views,
            seed=seed,
            select="macro_f1" if metric == "macro-f1" else "accuracy",
        ),
        time_limit=time_limit,
        batch_size=compute.batch_size,
        seed=seed,
        **prune,
    )
    device = compute.device
    with Run.exclusive(run_folder) as run:
        done = run_shrink(
            run,
            how.file(model),
            reading.data(data, seed),
            options,
            teachers=[how.file(each) for each in teachers],
            permission=how.permission,
            device=device,
            show_epochs=lambda training: show_epochs(console, training),
            progress=console,
        )
    tested = done.metrics.test or done.metrics.val
    console.result(
        done.to_json(),
        frontier_table(done),
        *result_tables(done),
        verdict(done),
        *loss_on_test(done.metrics),
        *guessing_verdict(done.metrics.original_val, "the original"),
        *collapse_verdict(tested, done.out.name, REMEDY),
        *(f"written {shown_path(path)}" for path in (done.out, done.export, done.report) if path is not None),
        next_command(
            DEFAULT_RUN, "predict", done.export or done.out, IMAGES, arch=None if done.export else how.factory
        ),
    )
    return 0 if done.metrics.met else 3


def frontier_table(done: Shrunk) -> Table:
    """The candidates, from the largest to the smallest."""
    from rich.table import Table

    metrics = done.metrics
    rule = (
        f"loss: {NAMES[metrics.metric]} on the validation images, in points; at most: loss of accuracy with 95 % "
        f"confidence; a network passes with a loss up to {metrics.max_loss:g} and at most "
        f"{metrics.max_loss + metrics.margin:g}"
    )
    table = Table("parameters", "multiply-adds", "how", "loss", "at most", "", title="frontier", caption=rule)
    for point in sorted(done.metrics.frontier, key=lambda each: (-each.params, each.trained)):
        table.add_row(
            f"{point.params:,}",
            f"{point.macs / 1e6:,.1f} M",
            sentence("fine-tuned" if point.trained else "refitted"),
            f"{point.loss:.2f}",
            f"{point.bound:.2f}",
            "chosen" if point.chosen else "passes" if point.passes else "fails",
        )
    return table


def result_tables(done: Shrunk) -> list[Table]:
    """The original and the chosen network on the validation and on the test images."""
    from rich.table import Table

    metrics = done.metrics
    tables = []
    for title, original, small in (
        ("validation images: they chose the network", metrics.original_val, metrics.val),
        ("test images: report these", metrics.original_test, metrics.test),
    ):
        if original is None or small is None:
            continue
        table = Table("network", "accuracy", "macro-F1", "worst class", title=title, caption=INTERVALS)
        for name, each in (("original", original), ("shrunk", small)):
            table.add_row(name, figure(each, "accuracy"), figure(each, "macro_f1"), worst_class(each))
        tables.append(table)
    return tables


def change(loss: float) -> str:
    """A loss in points as a verb and a number: a negative loss is a gain."""
    return f"loses {loss:.2f} points" if loss >= 0 else f"gains {-loss:.2f} points"


def loss_on_test(metrics: ShrinkMetrics) -> tuple[str, ...]:
    """One line on the loss on the test images, which did not choose the network; nothing without test images."""
    before, after = metrics.original_test, metrics.test
    if before is None or after is None:
        return ()
    losses = {name: (getattr(before, name) - getattr(after, name)) * 100 for name in ("macro_f1", "accuracy")}
    line = (
        f"on the {after.images} test images it {change(losses['macro_f1'])} of macro-F1 and "
        f"{change(losses['accuracy'])} of accuracy"
    )
    if losses.get(metrics.metric, losses["accuracy"]) <= metrics.max_loss:
        return (line,)
    return (f"{line}, more than --max-loss {metrics.max_loss:g}; check it on more images before you use it",)


def verdict(done: Shrunk) -> str:
    """Say how much smaller the network is, and whether it is within the loss."""
    metrics, judged = done.metrics, done.judged
    size = (
        f"{done.compression:.1f}x fewer parameters ({done.chosen.params:,}) and {done.macs_ratio:.1f}x fewer "
        f"multiply-adds ({done.chosen.macs / 1e6:,.1f} M)"
    )
    images = metrics.val.images
    loss = (
        f"it {change(judged.loss)} of {NAMES[metrics.metric]} on the {images} validation images, of which one "
        f"is {100 / images:.2f} points"
    )
    sure = (
        f"with 95 % confidence for all candidates together it loses at most {judged.bound:.2f} points of accuracy on "
        "images like these"
    )
    if metrics.met:
        return f"{size}: {loss}, at most {metrics.max_loss:g} are allowed; {sure}"
    return (
        f"no network that fits is within the loss: the best one has {size}; {loss}, at most {metrics.max_loss:g} are "
        f"allowed; {sure}, at most {metrics.max_loss + metrics.margin:g} are allowed; raise --max-loss or a --budget, "
        "or train longer with --epochs"
    )

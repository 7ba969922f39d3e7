"""`cfp compare DATA --teachers RL.pt CL.pt`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cfp_cli.commands.console import Console
from cfp_cli.commands.model_options import ModelOptions, model_options
from cfp_cli.commands.options import (
    Compute,
    Reading,
    data_options,
    device_options,
    examples,
    output_options,
    pass_console,
    reconstruct_option,
)
from cfp_cli.commands.several import takes_several
from cfp_cli.commands.training import show_epochs, take_options, training_options
from cfp_cli.comparing.methods import METHODS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from cfp_cli.comparing.rows import Summary
    from cfp_cli.pruning.options import Target

_MANY = 64


@click.command(
    short_help="Compare pruning criteria on your own images.",
    cls=takes_several({"--teachers": 2, "--ratios": _MANY, "--methods": _MANY, "--seeds": _MANY}),
    epilog=examples(
        "cfp compare data/ --teachers rl.pt cl.pt",
        "cfp compare data/ --teachers rl.pt cl.pt --no-finetune",
        "cfp compare data/ --teachers rl.pt cl.pt --ratios 0.95 0.975 --methods cfp l1 fpgm --epochs 60",
    ),
)
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--teachers",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    metavar="RL.pt [CL.pt]",
    help="Unpruned teachers: representation, which is pruned, then class-balanced. One alone is allowed.",
)
@model_options
@click.option(
    "--ratios",
    multiple=True,
    type=float,
    default=(0.95,),
    show_default=True,
    metavar="RATIO...",
    help="Fractions of the parameters, or of --target, to remove.",
)
@click.option(
    "--target",
    type=click.Choice(["params", "macs"]),
    default="params",
    show_default=True,
    help="What the ratios count: parameters or multiply-adds.",
)
@click.option(
    "--methods",
    multiple=True,
    default=("cfp", "hrank", "fpgm", "l1", "random"),
    show_default=True,
    metavar="NAME...",
    help=f"Methods: {', '.join(METHODS)}.",
)
@click.option(
    "--seeds",
    multiple=True,
    type=click.IntRange(0),
    default=(0, 1, 2),
    show_default=True,
    metavar="SEED...",
    help="Seeds; each is one run of every method at every ratio.",
)
@click.option("--images", type=click.IntRange(2), default=640, show_default=True, help="Training images to score.")
@reconstruct_option
@click.option(
    "--finetune/--no-finetune",
    default=True,
    show_default=True,
    help="Fine-tune each pruned network before it is tested.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("cfp-compare"),
    show_default=True,
    help="Folder of results.csv. Finished rows are not computed again.",
)
@data_options
@training_options("student", distillation=True, resume=False)
@device_options
@output_options
@pass_console
def compare(
    console: Console,
    /,
    data: Path,
    teachers: tuple[Path, ...],
    how: ModelOptions,
    ratios: tuple[float, ...],
    target: Target,
    methods: tuple[str, ...],
    seeds: tuple[int, ...],
    images: int,
    reconstruct: bool,
    finetune: bool,
    out: Path,
    reading: Reading,
    compute: Compute,
    **values: Any,
) -> None:
    """Prune with every method, ratio and seed, fine-tune, and compare the accuracy on the test split.

    All methods remove the same fraction of parameters or multiply-adds. All are fine-tuned with the same teachers and
    options. Run the same command again to continue a comparison that was stopped.
    """
    from cfp_cli.comparing.rows import summaries
    from cfp_cli.pruning.refit import Refit
    from cfp_cli.runs.comparison import run_compare
    from cfp_cli.runs.directory import lock_folder

    options = take_options(values, seed=0)
    with lock_folder(out), show_epochs(console, options) as listen:
        rows = run_compare(
            reading.data(data),
            [how.file(teacher) for teacher in teachers],
            methods,
            ratios,
            seeds,
            options if finetune else None,
            folder=out,
            images=images,
            target=target,
            refit=Refit(reconstruct),
            device=compute.device,
            progress=console,
            listen=listen,
        )
    found = summaries(rows)
    console.result([asdict(each) for each in found], summary_table(found), f"written {out / 'results.csv'}")


def summary_table(found: Sequence[Summary]) -> Table:
    """Every method at every ratio: mean and deviation over the seeds."""
    from rich.table import Table

    columns = ("ratio", "method", "seeds", "smaller", "multiply-adds", "test accuracy", "macro-F1", "points lost")
    table = Table(*columns, title="compared")
    for each in found:
        accuracy, macro_f1 = each.shown(each.accuracy, "%"), each.shown(each.macro_f1, "%")
        table.add_row(
            f"{each.ratio:g}",
            each.method,
            str(each.seeds),
            f"{each.compression:.1f}x",
            f"{each.macs / 1e6:,.1f} M",
            accuracy,
            macro_f1,
            f"{100 * each.lost:.2f}",
        )
    return table

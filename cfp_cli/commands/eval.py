"""`cfp eval MODEL DATA`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cfp_cli.commands.console import Console
from cfp_cli.commands.figures import collapse_verdict, figure, with_interval, worst_class
from cfp_cli.commands.options import compute_options, examples, model_options, output_options, pass_console, seed_option

if TYPE_CHECKING:
    from rich.table import Table

    from cfp_cli.measuring.metrics import Metrics

REMEDY = "use an earlier checkpoint, or train it with a lower --lr or more epochs"


@click.command(
    "eval",
    short_help="Measure a model on a split of the data.",
    epilog=examples("cfp eval cfp-run/finetuned.pt data/", "cfp eval model.pt data/ --split val --json"),
)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@model_options
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test"]),
    default="test",
    show_default=True,
    help="Split to measure on.",
)
@seed_option
@compute_options(batch_size=64)
@output_options
@pass_console
def evaluate(
    console: Console,
    model: Path,
    data: Path,
    arch: str | None,
    input_size: int | None,
    unsafe_pickle: bool,
    split: str,
    seed: int,
    device: str,
    threads: int | None,
    batch_size: int,
) -> None:
    """Measure MODEL on a split of DATA: accuracy, macro averages, figures of each class, confusion matrix."""
    from cfp_cli.execution.device import choose_device
    from cfp_cli.runs.evaluate import run_evaluate
    from cfp_cli.runs.inputs import DataInput, ModelInput

    metrics = run_evaluate(
        ModelInput(model, arch, input_size, unsafe_pickle),
        DataInput(data, seed),
        split,
        batch_size=batch_size,
        device=choose_device(device, threads),
        progress=console,
    )
    console.result(
        metrics.to_json(),
        metrics_table(metrics, f"{model.name} on {split}"),
        confusion_table(metrics),
        *collapse_verdict(metrics, model.name, REMEDY),
    )


def metrics_table(metrics: Metrics, title: str) -> Table:
    """The figures of each class, then those over all classes; with the 95 % interval of each."""
    from rich.table import Table

    table = Table("", "recall", "precision", "F1", "images", title=title, caption="in brackets: 95 % intervals")
    for name, each in metrics.per_class.items():
        intervals = metrics.class_intervals[name]
        cells = (with_interval(getattr(each, metric), intervals[metric]) for metric in ("recall", "precision", "f1"))
        table.add_row(name, *cells, str(each.images))
    table.add_section()
    averages = (figure(metrics, f"macro_{metric}") for metric in ("recall", "precision", "f1"))
    table.add_row("macro average", *averages, str(metrics.images))
    table.add_row("accuracy", figure(metrics, "accuracy"), "", "", "")
    table.add_row("balanced accuracy", figure(metrics, "balanced_accuracy"), "", "", "")
    table.add_row("worst class", worst_class(metrics), "", "", "")
    return table


def confusion_table(metrics: Metrics) -> Table:
    """Images by true class (row) and predicted class (column)."""
    from rich.table import Table

    names = list(metrics.per_class)
    table = Table("true \\ predicted", *(str(index) for index in range(len(names))), title="confusion")
    for index, (name, row) in enumerate(zip(names, metrics.confusion, strict=True)):
        table.add_row(f"{index} {name}", *(str(count) if count else "." for count in row))
    return table

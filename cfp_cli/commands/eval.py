"""`cfp eval MODEL DATA`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cfp_cli.commands.console import Console
from cfp_cli.commands.figures import (
    INTERVALS,
    PREPROCESSING,
    collapse_verdict,
    figure,
    guessing_verdict,
    of_class,
    worst_recall,
)
from cfp_cli.commands.model_options import ModelOptions, model_options
from cfp_cli.commands.next_command import next_for_model
from cfp_cli.commands.options import (
    Compute,
    Reading,
    compute_options,
    data_options,
    examples,
    output_options,
    pass_console,
    seed_option,
)
from cfp_cli.commands.segmentation_table import segmentation_table
from cfp_cli.commands.tables import Parts, sentence

if TYPE_CHECKING:
    from rich.table import Table

    from cfp_cli.measuring.metrics import Metrics
    from cfp_cli.measuring.mistakes import Mistake

# Rows of the table of mistakes.
MOST = 100
REMEDY = f"{PREPROCESSING}; if they are, use an earlier checkpoint, or train it with a lower --lr or more epochs"

# The largest number of classes in the table of classes.
_CLASSES = 50
# A confusion matrix has as many classes as fit beside their names, within these limits.
_FEWEST, _MOST, _NAME_WIDTH = 10, 50, 30


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
@click.option(
    "--worst",
    type=click.IntRange(0),
    default=3,
    show_default=True,
    help="Mistakes to show for each class, those with the highest confidence.",
)
@data_options
@seed_option
@compute_options(batch_size=64)
@output_options
@pass_console
def evaluate(
    console: Console,
    model: Path,
    data: Path,
    how: ModelOptions,
    split: str,
    worst: int,
    reading: Reading,
    seed: int,
    compute: Compute,
) -> None:
    """Measure MODEL on a split of DATA: accuracy, macro averages, figures of each class, confusion matrix, mistakes.

    A segmentation network needs masks instead of classes: DATA/masks/NAME.png beside DATA/images/NAME.jpg, with the
    index of the class at each pixel, or 255 for none. The command prints the intersection over union (IoU) of each
    class, their mean, and the pixel accuracy.
    """
    from cfp_cli.measuring.segmentation import SegmentationMetrics
    from cfp_cli.runs.evaluate import run_evaluate

    done = run_evaluate(
        how.file(model),
        reading.data(data, seed),
        split,
        worst=worst,
        batch_size=compute.batch_size,
        device=compute.device,
        progress=console,
    )
    metrics, title, following = done.metrics, f"{model.name} on {split}", next_for_model(model, how, data, done.pruned)
    if isinstance(metrics, SegmentationMetrics):
        console.result(done.to_json(), segmentation_table(metrics, title), following)
        return
    console.result(
        done.to_json(),
        metrics_table(metrics, title),
        confusion_table(metrics, console.width),
        *([mistakes_table(done.mistakes)] if done.mistakes else []),
        *(collapse_verdict(metrics, model.name, REMEDY) or guessing_verdict(metrics, model.name)),
        following,
    )


def metrics_table(metrics: Metrics, title: str) -> Table:
    """The figures of each class, then those over all classes; with the 95 % interval of each.

    Of many classes, those with the lowest recall are shown.
    """
    from rich.table import Table

    table = Table("", "recall", "precision", "F1", "images", title=title, caption=INTERVALS)
    shown = metrics.lowest_recall(_CLASSES)
    for name, each in shown.items():
        cells = (of_class(metrics, name, metric) for metric in ("recall", "precision", "f1"))
        table.add_row(name, *cells, str(each.images))
    if left_out := len(metrics.per_class) - len(shown):
        table.caption = f"{table.caption}; {left_out} other classes: see --json"
    table.add_section()
    averages = (figure(metrics, f"macro_{metric}") for metric in ("recall", "precision", "f1"))
    table.add_row(sentence("macro average"), *averages, str(metrics.images))
    table.add_row("accuracy", figure(metrics, "accuracy"), "", "", "")
    table.add_row(sentence("balanced accuracy"), figure(metrics, "balanced_accuracy"), "", "", "")
    table.add_row(Parts(("worst class:", metrics.worst_class.label)), worst_recall(metrics), "", "", "")
    if not all(each.defines(metric) for each in shown.values() for metric in ("recall", "precision")):
        table.caption = f"{table.caption}; -: no image says something about it"
    return table


def confusion_table(metrics: Metrics, width: int) -> Table:
    """Images by true class (row) and predicted class (column), for the classes with the most errors.

    Args:
        metrics: the metrics.
        width: desired width of the table, in characters, which limits the number of classes.
    """
    from rich.table import Column, Table

    digits = len(str(max(each.images for each in metrics.per_class.values())))
    fitting = (width - _NAME_WIDTH) // (max(digits, 2) + 3)
    confusion = metrics.most_confused(min(max(_FEWEST, fitting), _MOST))
    left_out = f"{confusion.left_out} classes with fewer errors are left out; --json has all"
    caption = left_out if confusion.left_out else None
    columns = (Column(str(index), no_wrap=True) for index in range(len(confusion.classes)))
    table = Table("true \\ predicted", *columns, title="confusion", caption=caption)
    for index, (name, row) in enumerate(zip(confusion.classes, confusion.rows, strict=True)):
        table.add_row(f"{index} {name}", *(str(count) if count else "." for count in row))
    return table


def mistakes_table(mistakes: Sequence[Mistake]) -> Table:
    """The mistakes of each true class with the highest confidence."""
    from rich.table import Table

    table = Table("class", "predicted", "confidence", "image", title="worst mistakes")
    shown = sorted(mistakes, key=lambda each: -each.confidence)[:MOST]
    for each in mistakes:
        if each in shown:
            table.add_row(each.label, each.predicted, f"{each.confidence:.1%}", str(each.path))
    if len(mistakes) > MOST:
        table.caption = f"the {MOST} with the highest confidence of {len(mistakes)}; --json has all"
    return table

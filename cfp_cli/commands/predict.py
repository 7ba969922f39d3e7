"""`cfp predict MODEL IMAGES...`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cfp_cli.checkpoints.export_formats import ENDINGS
from cfp_cli.commands.console import Console
from cfp_cli.commands.model_options import ModelOptions, model_options
from cfp_cli.commands.next_command import next_command
from cfp_cli.commands.options import (
    Compute,
    FiniteRange,
    Reading,
    compute_options,
    data_options,
    examples,
    output_options,
    pass_console,
)
from cfp_cli.commands.tables import Parts
from cfp_cli.runs.command_line import DEFAULT_RUN

if TYPE_CHECKING:
    from rich.table import Table

    from cfp_cli.runs.predict import Predicted, Prediction


@click.command(
    short_help="Predict the class of images without labels.",
    epilog=examples(
        "cfp predict cfp-run/finetuned.pt data/test",
        "cfp predict cfp-run/finetuned.pt 'data/test/**/*.png' --threshold 0.9 --csv out.csv",
    ),
)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("images", metavar="IMAGES...", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--csv", "out", type=click.Path(path_type=Path), default=None, help="CSV file to write.")
@click.option(
    "--threshold",
    type=FiniteRange(0, 1),
    default=0.0,
    show_default=True,
    help="Mark predictions with a smaller confidence as unsure.",
)
@data_options
@model_options
@compute_options(batch_size=64)
@output_options
@pass_console
def predict(
    console: Console,
    model: Path,
    images: tuple[Path, ...],
    out: Path | None,
    threshold: float,
    reading: Reading,
    how: ModelOptions,
    compute: Compute,
) -> None:
    """Predict the class of each of IMAGES, with its confidence and the probability of each class.

    MODEL is a checkpoint or a file that `cfp export` wrote: .onnx, .xml of OpenVINO, or .pt2, which needs
    --unsafe-pickle. An exported file contains its classes and preprocessing.

    IMAGES are folders with subfolders, image files, globs in quotes, or text files with the path of an image on each
    line. Labels are not needed; to measure accuracy on labelled images, use cfp eval.
    """
    from cfp_cli.runs.predict import MOST_UNSURE, run_predict

    done = run_predict(
        how.file(model),
        images,
        threshold=threshold,
        out=out,
        keep_rows=out is None or console.json,
        max_bad=reading.max_bad,
        bit_depth=reading.bit_depth,
        batch_size=compute.batch_size,
        device=compute.device,
        progress=console,
    )
    if out is None:
        shown = [images_table(done, done.rows, "predictions")]
    else:
        # The file has all images; those that a person must look at are shown here too.
        unsure = sum(each.unsure for each in done.summary)
        shown = [images_table(done, done.most_unsure, "unsure predictions")] if unsure else []
        if unsure > MOST_UNSURE:
            shown[0].caption = f"the {MOST_UNSURE} with the lowest confidence of {unsure}; {out} has all"
    skipped = f", {len(done.unreadable)} cannot be read" if done.unreadable else ""
    written = [f"written {out}"] if out is not None else []
    summary = classes_table(done, with_unsure=threshold > 0)
    console.result(
        done.to_json(), *shown, summary, f"{done.images} images{skipped}", *written, *_next(model, images, out, how)
    )


def _next(model: Path, images: tuple[Path, ...], out: Path | None, how: ModelOptions) -> list[str]:
    if out is None:
        return [next_command(DEFAULT_RUN, "predict", model, *images, "--csv", "predictions.csv", *how.given)]
    # `cfp bench` times checkpoints only.
    if model.suffix not in ENDINGS.values():
        return [next_command(DEFAULT_RUN, "bench", model, *how.given)]
    return [next_command(DEFAULT_RUN, "report")] if DEFAULT_RUN.is_dir() else []


def images_table(predicted: Predicted, rows: Sequence[Prediction], title: str) -> Table:
    """The class of each image, its confidence, and the second most probable class.

    Args:
        predicted: all predictions.
        rows: the predictions to show.
        title: title of the table.
    """
    from rich.table import Table

    table = Table("image", "class", "confidence", "second class", title=title)
    for row in rows:
        ranked = sorted(zip(row.probabilities, predicted.classes, strict=True), reverse=True)
        second = next((Parts((name, f"{value:.1%}")) for value, name in ranked if name != row.label), "")
        confidence = Parts((f"{row.confidence:.1%}", *(["unsure"] if row.unsure else [])))
        table.add_row(str(row.path), row.label, confidence, second)
    return table


def classes_table(predicted: Predicted, with_unsure: bool = True) -> Table:
    """Images by predicted class, their mean confidence, and how many are unsure.

    Args:
        predicted: all predictions.
        with_unsure: show how many are unsure; without a threshold none is.
    """
    from rich.table import Table

    unsure_column = ["unsure"] if with_unsure else []
    table = Table("predicted class", "images", "mean confidence", *unsure_column, title="summary")
    for each in predicted.summary:
        if each.images:
            unsure = [str(each.unsure)] if with_unsure else []
            table.add_row(each.name, str(each.images), f"{each.confidence / each.images:.1%}", *unsure)
    return table

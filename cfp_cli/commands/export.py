"""`cfp export [MODEL] --format onnx|pt2|openvino --out F`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cfp_cli.checkpoints.export_formats import FORMATS, Format
from cfp_cli.commands.console import Console
from cfp_cli.commands.model_options import ModelOptions, model_options
from cfp_cli.commands.next_command import IMAGES, next_command
from cfp_cli.commands.options import (
    Reading,
    data_options,
    examples,
    output_options,
    pass_console,
    run_option,
    seed_option,
)
from cfp_cli.commands.tables import listed, sentence
from cfp_cli.runs.command_line import DEFAULT_RUN

if TYPE_CHECKING:
    from rich.table import Table

    from cfp_cli.exporting.export import ExportReport


@click.command(
    short_help="Export to ONNX, pt2 or OpenVINO and compare with the checkpoint.",
    epilog=examples("cfp export --format onnx --out small.onnx", "cfp export model.pt --format pt2 --out model.pt2"),
)
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option(
    "--format",
    type=click.Choice(FORMATS),
    required=True,
    help="onnx for onnxruntime and edge runtimes; pt2 for torch.export.load; openvino for Intel processors.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="File to write. For openvino, NAME.xml; the weights go to NAME.bin.",
)
@click.option(
    "--int8",
    is_flag=True,
    help="Also quantise to 8 bits, calibrated on training images; not for pt2. Of several int8 files, the one that is "
    "closest to the network on this processor is kept. The first layers stay in float32 where they cost little.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    default=None,
    help="Images to compare on.  [default: images of the run, or generated images]",
)
@data_options
@model_options
@run_option
@seed_option
@click.option(
    "--batch-size",
    type=click.IntRange(1, 65_536),
    default=64,
    show_default=True,
    help="Images per batch for the accuracy of int8.",
)
@output_options
@pass_console
def export(
    console: Console,
    model: Path | None,
    format: Format,
    out: Path,
    int8: bool,
    data: Path | None,
    reading: Reading,
    how: ModelOptions,
    run_folder: Path,
    seed: int,
    batch_size: int,
) -> None:
    """Export MODEL, run the exported file and compare its logits with those of the checkpoint.

    A float32 file is kept only if both agree up to float32 rounding. An int8 file is kept at any loss of accuracy, and
    the loss is shown. Without MODEL, the newest checkpoint of the run is exported, from `cfp prune` or `cfp finetune`.
    The file accepts any batch size. Its metadata contain class names, input size, mean, std and lineage.
    """
    from cfp_cli.runs.directory import Run
    from cfp_cli.runs.export import run_export
    from cfp_cli.runs.next_step import bench_line

    run = Run.open(run_folder)
    report = run_export(
        run,
        how.file(model) if model is not None else None,
        reading.data(data, seed) if data is not None else None,
        out,
        format,
        int8=int8,
        batch_size=batch_size,
        seed=seed,
        permission=how.permission,
        progress=console,
    )
    trust = ["--unsafe-pickle"] if format == "pt2" else []
    following: list[str] = []
    if report.top1_agreement is not None:
        following = [next_command(DEFAULT_RUN, "predict", out, data or IMAGES, *trust)]
    elif (line := bench_line(run, out, how.factory)) is not None:
        following = [f"next: {line}"]
    console.result(report.to_json(), export_table(report), f"written {out}", *following)


def export_table(report: ExportReport) -> Table:
    """The exported file, and how it compares with the checkpoint."""
    from rich.table import Table

    table = Table("", "", title=f"exported to {report.format}, {report.precision}", show_header=False)
    table.add_row("parameters", f"{report.parameters:,}")
    difference = f"{abs(report.overhead):.1%}"
    compared = f"{difference} {'less' if report.overhead < 0 else 'more'} than the weights alone"
    if difference == "0.0%":
        compared = "as many as the weights alone"
    table.add_row("file", sentence(f"{report.bytes:,} bytes, {compared}"))
    if report.quantiser is not None:
        table.add_row("quantised by", report.quantiser)
    if report.float32_layers:
        table.add_row("layers in float32", sentence(f"the first {report.float32_layers} of {report.layers}"))
    table.add_row("compared on", f"{report.images} {'test' if report.samples == 'given' else 'generated'} images")
    if report.top1_agreement is not None:
        table.add_row("same class", f"{report.top1_agreement:.2%}")
    what = "logit" if report.top1_agreement is not None else "output"
    table.add_row(f"largest {what} error", f"{report.max_relative_error:.1e} of the largest {what}")
    if report.float64_error is not None and report.checkpoint_float64_error is not None:
        table.add_row(
            "error against float64",
            listed(
                (
                    f"file {report.float64_error:.1e}",
                    f"checkpoint {report.checkpoint_float64_error:.1e}",
                    f"allowed {report.error_budget:.1e}",
                )
            ),
        )
    if report.accuracy_before is not None and report.accuracy_after is not None:
        table.add_row("accuracy, float32 to int8", f"{report.accuracy_before:.2%} to {report.accuracy_after:.2%}")
    if report.macro_f1_before is not None and report.macro_f1_after is not None:
        table.add_row("macro-F1, float32 to int8", f"{report.macro_f1_before:.2%} to {report.macro_f1_after:.2%}")
    return table

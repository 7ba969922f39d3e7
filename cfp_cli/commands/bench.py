"""`cfp bench MODEL [MODEL...]`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cfp_cli.commands.console import Console
from cfp_cli.commands.model_options import ModelOptions, model_options
from cfp_cli.commands.next_command import next_command, next_for_model
from cfp_cli.commands.options import (
    Compute,
    FiniteRange,
    device_options,
    examples,
    output_options,
    pass_console,
    run_option,
)
from cfp_cli.commands.tables import Parts

if TYPE_CHECKING:
    from rich.table import Table

    from cfp_cli.exporting.benchmark import Benchmark

# A median this many times as long as another is slower; less is often the noise of the machine.
SLOWER = 1.05


@click.command(
    short_help="Compare size, multiply-adds and latency of models.",
    epilog=examples(
        "cfp bench model.pt cfp-run/finetuned.pt",
        "cfp bench model.pt cfp-run/finetuned.pt --batch-size 1 --batch-size 64 --threads 1",
    ),
)
@click.argument("models", metavar="MODEL...", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--batch-size",
    "batches",
    type=click.IntRange(1, 65_536),
    multiple=True,
    default=(1, 64),
    show_default="1 and 64",
    help="Images per batch. Repeatable.",
)
@click.option(
    "--seconds",
    type=FiniteRange(0.01, 3600),
    default=1.0,
    show_default=True,
    help="Time to spend on each model, batch size and runtime.",
)
@click.option("--channels-last", is_flag=True, help="Time torch with images and weights in NHWC layout.")
@click.option("--onnx/--no-onnx", default=True, show_default=True, help="Also time onnxruntime, if it is installed.")
@click.option(
    "--openvino/--no-openvino", default=True, show_default=True, help="Also time OpenVINO, if it is installed."
)
@model_options
@run_option
@device_options
@output_options
@pass_console
def bench(
    console: Console,
    models: tuple[Path, ...],
    batches: tuple[int, ...],
    seconds: float,
    channels_last: bool,
    onnx: bool,
    openvino: bool,
    how: ModelOptions,
    run_folder: Path,
    compute: Compute,
) -> None:
    """Show parameters, multiply-adds, bytes and measured latency of each MODEL.

    The models are timed in turns, so that a change in the machine's speed affects all of them. Ratios compare each
    model with the first.
    """
    from cfp_cli.runs.bench import run_bench
    from cfp_cli.runs.directory import Run
    from cfp_cli.runs.next_step import has_labels, next_without_labels
    from cfp_cli.runs.records import ScoreRecord

    run = Run.open(run_folder)
    benchmarks = run_bench(
        run,
        [how.file(model) for model in models],
        batches=batches,
        seconds=seconds,
        memory="channels-last" if channels_last else "contiguous",
        onnx=onnx,
        openvino=openvino,
        device=compute.device,
        progress=console,
    )
    if run.latest(ScoreRecord) is None:
        following = [next_for_model(models[0], how, None, pruned=False)]
    elif has_labels(run):
        following = [next_command(run_folder, "report", arch=how.factory)]
    else:
        line = next_without_labels(run, how.factory)
        following = [f"next: {line}"] if line is not None else []
    console.result(
        [each.to_json() for each in benchmarks],
        cost_table(benchmarks),
        latency_table(benchmarks),
        *slower_verdicts(benchmarks),
        *following,
    )


def cost_table(benchmarks: list[Benchmark]) -> Table:
    """Parameters, multiply-adds and bytes of each model, with the ratio of the first model to it."""
    from rich.table import Table

    table = Table("model", "parameters", "multiply-adds", "bytes", title="cost")
    first = benchmarks[0]
    for each in benchmarks:
        row = (
            ([f"{each.params:,}"], first.params / max(each.params, 1)),
            ([f"{each.macs / 1e6:,.1f} M"], first.macs / max(each.macs, 1)),
            ([f"{each.bytes:,}", *each.stored.split()], first.bytes / max(each.bytes, 1)),
        )
        cells = (Parts((*texts, *([] if each is first else [times(ratio)]))) for texts, ratio in row)
        table.add_row(each.model, *cells)
    return table


def latency_table(benchmarks: list[Benchmark]) -> Table:
    """Median and quartiles of the time of one batch, and the speed-up over the first model."""
    from rich.table import Table

    threads = sorted({each.threads for model in benchmarks for each in model.latency_ms})
    title = f"latency, {' and '.join(map(str, threads))} thread{'s' if threads != [1] else ''}"
    table = Table("model", "runtime", "batch", "median ms (quartiles)", "speed-up", title=title)
    first = {(each.runtime, each.batch): each.median for each in benchmarks[0].latency_ms}
    for model in benchmarks:
        for index, each in enumerate(model.latency_ms):
            base = first.get((each.runtime, each.batch))
            table.add_row(
                model.model if index == 0 else "",
                each.runtime,
                str(each.batch),
                Parts((_ms(each.median), f"({_ms(each.p25)} to {_ms(each.p75)})")),
                f"{base / each.median:.1f}x" if base is not None else "",
            )
        table.add_section()
    return table


def slower_verdicts(benchmarks: list[Benchmark]) -> list[str]:
    """One line for each model that is slower than the first although it has fewer multiply-adds.

    A model whose lower quartile is below the upper quartile of the first may be slower by chance.
    """
    first = benchmarks[0]
    known = {(each.runtime, each.batch): each for each in first.latency_ms}
    lines = []
    for model in benchmarks[1:]:
        slower = [
            f"{each.runtime} (batch {each.batch})"
            for each in model.latency_ms
            if (one := known.get((each.runtime, each.batch))) is not None
            and each.median > SLOWER * one.median
            and each.p25 > one.p75
        ]
        if slower and model.macs < first.macs:
            lines.append(
                f"slower: {model.model} has fewer multiply-adds than {first.model} but takes longer in "
                f"{', '.join(slower)}; if its channel counts are not multiples of 8, use `cfp prune --round-to 8`"
            )
    return lines


def _ms(value: float) -> str:
    """Format milliseconds with at least three digits."""
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def times(ratio: float) -> str:
    """How often a count fits into that of the first model: a count that is larger has more."""
    return f"({ratio:.1f}x fewer)" if ratio >= 1 or ratio == 0 else f"({1 / ratio:.1f}x more)"

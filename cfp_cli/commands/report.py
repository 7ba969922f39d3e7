"""`cfp report [RUN]`."""

from __future__ import annotations

from pathlib import Path

import click

from cfp_cli.commands.console import Console
from cfp_cli.commands.options import (
    Compute,
    compute_options,
    examples,
    output_options,
    pass_console,
    permission_options,
    run_option,
)

# Stands for the file of this name in the run directory.
DEFAULT_CARD = Path("RUN/model-card.md")


@click.command(
    short_help="Write an HTML page about a run.",
    epilog=examples(
        "cfp report", "cfp report other-run --image scratch_17.png --out report.html", "cfp report --card card.md"
    ),
)
@click.argument("folder", metavar="[RUN]", type=click.Path(path_type=Path), required=False)
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Page to write.  [default: RUN/report.html]")
@click.option(
    "--image",
    type=click.Path(path_type=Path),
    default=None,
    help="Image whose feature maps are shown.  [default: the first scored image]",
)
@click.option(
    "--bench/--no-bench", default=True, show_default=True, help="Measure latency if the run has no record of it."
)
@click.option(
    "--worst",
    type=click.IntRange(0),
    default=4,
    show_default=True,
    help="Mistakes to show for each class, those with the highest confidence.",
)
@click.option(
    "--card",
    type=click.Path(path_type=Path),
    is_flag=False,
    flag_value=DEFAULT_CARD,
    default=None,
    metavar="[FILE]",
    help="Also write a model card in Markdown.  [without FILE: RUN/model-card.md]",
)
@permission_options
@run_option
@compute_options(batch_size=64)
@output_options
@pass_console
def report(
    console: Console,
    folder: Path | None,
    out: Path | None,
    image: Path | None,
    bench: bool,
    worst: int,
    card: Path | None,
    arch: str | None,
    unsafe_pickle: bool,
    run_folder: Path,
    compute: Compute,
) -> None:
    """Write one HTML page about a run: a verdict, sizes, layers, feature maps, fine-tuning, mistakes, latency, hashes.

    RUN is the run directory; without it, --run is used. The page opens in any browser, without a network connection.
    Sections for which the run has no data are left out; the page says which, and why.
    """
    from cfp_cli.runs.directory import Run
    from cfp_cli.runs.inputs import Permission
    from cfp_cli.runs.report import run_report

    run = Run.open(folder or run_folder)
    done = run_report(
        run,
        out=out,
        image=image,
        bench=bench,
        worst=worst,
        card=run.folder / DEFAULT_CARD.name if card == DEFAULT_CARD else card,
        batch_size=compute.batch_size,
        permission=Permission(arch, unsafe_pickle),
        device=compute.device,
        progress=console,
    )
    missing = [f"left out: {name}. {why}" for name, why in done.left_out.items()]
    console.result(
        done.to_json(),
        done.verdict.headline,
        *done.verdict.facts,
        *missing,
        f"written {done.out} ({done.bytes / 1e6:.2f} MB, {done.layers} layers)",
        *([f"written {done.card}"] if done.card else []),
        f"next: {done.next}",
    )

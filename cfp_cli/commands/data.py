"""`cfp data split SRC DST`."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import click

from cfp_cli.commands.console import LOGGER, Console
from cfp_cli.commands.group import CommandGroup
from cfp_cli.commands.options import examples, output_options, pass_console, seed_option
from cfp_cli.data.choices import Layout

# The largest number of classes in the table.
_CLASSES = 50


@click.group(cls=CommandGroup)
def data() -> None:
    """Convert public data sets to the folders that cfp reads."""


@data.command(
    short_help="Copy a public data set to train, val and test folders.",
    epilog=examples("cfp data split NEU-CLS/ data/ --layout neu", "cfp data split elpv-dataset data/"),
)
@click.argument("source")
@click.argument("destination", type=click.Path(path_type=Path))
@click.option(
    "--layout",
    type=click.Choice(["auto", *get_args(Layout)]),
    default="auto",
    show_default=True,
    help="Layout of SOURCE.",
)
@click.option(
    "--long-tail",
    is_flag=True,
    help="X-SDD only: keep 20/20/20/200/10/10/10 training images per class, as in the paper.",
)
@seed_option
@output_options
@pass_console
def split(console: Console, source: str, destination: Path, layout: str, long_tail: bool, seed: int) -> None:
    """Copy a public data set from its own layout to DESTINATION/{train,val,test}/CLASS/.

    SOURCE is the folder of the data set, or the word elpv-dataset for the installed Python package elpv-dataset.
    """
    from rich.table import Table

    from cfp_cli.data.arrange import split_layout
    from cfp_cli.data.layouts import X_SDD_LONG_TAIL
    from cfp_cli.runs.output_path import check_output_folder

    check_output_folder(destination, inputs=[source], apart=True)
    counts = X_SDD_LONG_TAIL if long_tail else None
    LOGGER.info("reading %s", source)
    done = split_layout(source, destination, layout, seed, counts=counts, progress=console)
    table = Table("class", *done.images, title=f"{done.layout} layout")
    for name in done.classes[:_CLASSES]:
        table.add_row(name, *(str(images[name]) for images in done.images.values()))
    if len(done.classes) > _CLASSES:
        table.caption = f"{len(done.classes) - _CLASSES} classes are left out: see --json"
    console.result(done.to_json(), table, f"written {done.destination}")

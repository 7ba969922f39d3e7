"""Options that several commands share, each declared once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from cfp_cli.commands.console import Console

Command = TypeVar("Command", bound=Callable[..., Any])

pass_console = click.pass_obj


def examples(*lines: str) -> str:
    """The end of a command's help: one example a line."""
    # click reads the backspace as "keep these lines as they are".
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def _flag(attribute: str) -> Callable[[click.Context, click.Parameter, bool], None]:
    def set_flag(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
        console = ctx.ensure_object(Console)
        setattr(console, attribute, value)

    return set_flag


def talk(command: Command) -> Command:
    """`--json`, `-q`, `-v` and `--debug`: how much a command says, and in what form."""
    for decorator in (
        click.option(
            "--debug",
            is_flag=True,
            expose_value=False,
            callback=_flag("debug"),
            help="Show the traceback of a failure.",
        ),
        click.option("-v", "--verbose", is_flag=True, expose_value=False, callback=_flag("verbose"), help="Say more."),
        click.option(
            "-q", "--quiet", is_flag=True, expose_value=False, callback=_flag("quiet"), help="Say only errors."
        ),
        click.option(
            "--json", is_flag=True, expose_value=False, callback=_flag("json"), help="Print one JSON value on stdout."
        ),
    ):
        command = decorator(command)
    return command


run_option = click.option(
    "--run",
    "run_folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("cfp-run"),
    envvar="CFP_RUN",
    show_default=True,
    show_envvar=True,
    help="Run directory.",
)
seed_option = click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of every random choice."
)

reconstruct_option = click.option(
    "--reconstruct/--no-reconstruct",
    default=True,
    show_default=True,
    help="Fit each layer that is left to its outputs in the original.",
)


def placed(command: Command) -> Command:
    """`--device` and `--threads`: where the work runs."""
    for decorator in (
        click.option(
            "--threads", type=click.IntRange(1, 1024), default=None, help="CPU threads.  [default: all cores]"
        ),
        click.option(
            "--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]", help="Where to compute."
        ),
    ):
        command = decorator(command)
    return command


def machine(batch_size: int) -> Callable[[Command], Command]:
    """`--device`, `--threads` and `--batch-size`: where and how the work runs."""
    batches = click.option(
        "--batch-size", type=click.IntRange(1), default=batch_size, show_default=True, help="Images a batch."
    )

    def decorate(command: Command) -> Command:
        return placed(batches(command))

    return decorate


def model_source(command: Command) -> Command:
    """`--arch`, `--input-size` and `--unsafe-pickle`: how to read a model that is not a cfp checkpoint."""
    for decorator in (
        click.option(
            "--unsafe-pickle", is_flag=True, help="Also load files that can run code. Only for files you trust."
        ),
        click.option(
            "--input-size",
            type=click.IntRange(8),
            default=None,
            help="Input side in pixels, where the file does not say.",
        ),
        click.option(
            "--arch", default=None, metavar="NAME", help="vgg16_bn_gap, torchvision:NAME, timm:NAME or file.py:factory."
        ),
    ):
        command = decorator(command)
    return command

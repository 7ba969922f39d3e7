"""The command-line options of a training run, built from `TrainOptions`, and the display of its epochs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import click
from click.core import ParameterSource

from cfp_cli.commands.console import Console
from cfp_cli.training.options import PRESETS, Preset, TrainOptions

if TYPE_CHECKING:
    from cfp_cli.training.history import EpochRow

Command = TypeVar("Command", bound=Callable[..., Any])


def training_options(preset: Preset, *, distillation: bool, resume: bool = True) -> Callable[[Command], Command]:
    """Add `--preset`, one option per field of `TrainOptions` except `seed`, and `--resume`.

    Args:
        preset: the default of `--preset`, which sets the defaults in the help.
        distillation: add the options of the distillation loss.
        resume: add `--resume`.
    """
    defaults = TrainOptions.preset(preset)
    kinds = get_type_hints(TrainOptions)
    options = [
        click.option(
            "--preset",
            type=click.Choice(list(PRESETS)),
            default=preset,
            show_default=True,
            help=f"Defaults of the training options. This page shows those of {preset}.",
        )
    ]
    for field in fields(TrainOptions):
        if field.name == "seed" or (field.metadata.get("distillation") and not distillation):
            continue
        flag, kind, text = f"--{field.name.replace('_', '-')}", kinds[field.name], field.metadata["help"]
        if kind is bool:
            options.append(click.option(flag, is_flag=True, help=text))
            continue
        value_type: Any = kind
        if get_origin(kind) is Literal:
            value_type = click.Choice(get_args(kind))
        elif kind is int:
            value_type = click.IntRange(field.metadata["minimum"], field.metadata.get("maximum"))
        default = getattr(defaults, field.name)
        options.append(click.option(flag, type=value_type, default=default, show_default=True, help=text))
    if resume:
        options.append(click.option("--resume", is_flag=True, help="Continue an interrupted run of the same command."))

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def take_options(values: dict[str, Any], *, seed: int) -> TrainOptions:
    """Remove the training options from the parameters of the current command, and build `TrainOptions` from them.

    Values from the command line or a configuration file replace those of the preset.

    Args:
        values: parameters of the command by name; training options are removed.
        seed: seed of all random choices.
    """
    context = click.get_current_context()
    preset = values.pop("preset")
    chosen = {field.name: values.pop(field.name) for field in fields(TrainOptions) if field.name in values}
    explicit = {
        name: value
        for name, value in chosen.items()
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT
    }
    return TrainOptions.preset(preset, seed=seed, **explicit)


@contextmanager
def show_epochs(console: Console, options: TrainOptions) -> Iterator[Callable[[Sequence[EpochRow]], None] | None]:
    """Yield a listener that updates a table of epochs on a terminal.

    Without a terminal it yields None, and the training loop prints one line per epoch. The table appears with the first
    epoch: an error before that is not preceded by an empty table, and the bar of the training shows the first epoch.
    """
    if not console.interactive:
        yield None
        return

    from rich.console import Group

    with console.live(Group()) as live:

        def draw(rows: Sequence[EpochRow]) -> None:
            # This module imports torch, which takes seconds.
            from cfp_cli.training.epoch_table import epoch_table

            live.update(epoch_table(rows, options.epochs, select=options.select))

        yield draw

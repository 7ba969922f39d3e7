"""The options of a training run, shared by `cfp train` and `cfp finetune`, and how an epoch is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cfp_cli.commands.console import Console

if TYPE_CHECKING:
    from rich.table import Table

    from cfp_cli.training.history import EpochRow
    from cfp_cli.training.options import TrainOptions

Command = TypeVar("Command", bound=Callable[..., Any])


def training_options(
    *, epochs: int, lr: float, batch_size: int, augment: str, ema: float = 0.0, resume: bool = True
) -> Callable[[Command], Command]:
    """Declare the options that become `TrainOptions`, with a command's own defaults, and `--resume`."""
    options = [
        click.option(
            "--epochs", type=click.IntRange(1), default=epochs, show_default=True, help="Passes over the images."
        ),
        click.option(
            "--batch-size", type=click.IntRange(2), default=batch_size, show_default=True, help="Images a step."
        ),
        click.option("--lr", type=float, default=lr, show_default=True, help="Learning rate of the first epoch."),
        click.option("--weight-decay", type=float, default=5e-4, show_default=True, help="Weight decay."),
        click.option(
            "--schedule",
            type=click.Choice(["cosine", "linear", "constant"]),
            default="cosine",
            show_default=True,
            help="How the learning rate falls.",
        ),
        click.option(
            "--optimizer",
            type=click.Choice(["adam", "adamw", "sgd"]),
            default="adam",
            show_default=True,
            help="Optimiser.",
        ),
        click.option(
            "--sampler",
            type=click.Choice(["instance", "balanced", "sqrt"]),
            default="instance",
            show_default=True,
            help="instance shuffles; balanced draws every class equally often; sqrt is half-way.",
        ),
        click.option(
            "--augment",
            type=click.Choice(["none", "paper", "geometric", "strong"]),
            default=augment,
            show_default=True,
            help="Views: as it is, the paper's flips and crops, flips with turns and crops, or these in another light.",
        ),
        click.option("--views", type=click.IntRange(1), default=8, show_default=True, help="Views of each image."),
        click.option(
            "--select",
            type=click.Choice(["accuracy", "macro_f1"]),
            default="accuracy",
            show_default=True,
            help="Validation figure that picks the epoch: the latest within one standard error of the best.",
        ),
        click.option(
            "--ema", type=float, default=ema, show_default=True, help="Decay of a running mean of weights; 0 is off."
        ),
        click.option(
            "--patience",
            type=click.IntRange(0),
            default=0,
            show_default=True,
            help="Stop after so many epochs without a gain; 0 is off.",
        ),
        click.option(
            "--clip-norm", type=float, default=0.0, show_default=True, help="Largest gradient norm; 0 is off."
        ),
        click.option(
            "--amp",
            type=click.Choice(["off", "auto", "bf16", "fp16"]),
            default="off",
            show_default=True,
            help="Autocast.",
        ),
        click.option("--compile", is_flag=True, help="Use torch.compile."),
    ]
    if resume:
        options.append(click.option("--resume", is_flag=True, help="Go on where the same command was interrupted."))

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


NAMES = [
    "epochs",
    "batch_size",
    "lr",
    "weight_decay",
    "schedule",
    "optimizer",
    "sampler",
    "augment",
    "views",
    "select",
    "ema",
    "patience",
    "clip_norm",
    "amp",
    "compile",
]


def take_options(values: dict[str, Any], **more: Any) -> TrainOptions:
    """The `TrainOptions` among a command's parameters, which are taken out of `values`."""
    from cfp_cli.training.options import TrainOptions

    return TrainOptions(**{name: values.pop(name) for name in NAMES}, **more)


@contextmanager
def telling(console: Console, options: TrainOptions) -> Iterator[Callable[[Sequence[EpochRow]], None] | None]:
    """Tell of each epoch: a table that updates on a terminal, else one line an epoch."""
    from cfp_cli.training.live import table

    if not console.interactive:

        def say(rows: Sequence[EpochRow]) -> None:
            row = rows[-1]
            console.say(
                f"epoch {row.epoch + 1}/{options.epochs}: loss {row.loss:.4f}, val accuracy {row.accuracy:.2%}, "
                f"val macro-F1 {row.macro_f1:.2%}, lr {row.lr:.1e}, {row.images_per_second:.0f} images/s"
            )

        yield say
        return

    def drawn(rows: Sequence[EpochRow]) -> Table:
        return table(rows, options.epochs, select=options.select)

    with console.live(drawn(())) as live:
        yield lambda rows: live.update(drawn(rows))

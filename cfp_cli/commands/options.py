"""Options that several commands share."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from cfp_cli.commands.config import name_source
from cfp_cli.commands.console import Console
from cfp_cli.data.choices import BitDepth
from cfp_cli.foundation.errors import CfpError, StorageError
from cfp_cli.runs.command_line import DEFAULT_RUN

if TYPE_CHECKING:
    import torch

    from cfp_cli.runs.inputs import DataInput

Command = TypeVar("Command", bound=Callable[..., Any])


def pass_console(command: Command) -> Command:
    """Pass the console to a command as its first argument, and show at once that the command has started."""

    @wraps(command)
    def begin(*args: Any, **kwargs: Any) -> Any:
        console = click.get_current_context().ensure_object(Console)
        if "torch" not in sys.modules:
            console.status("loading PyTorch")
        try:
            with console.only_results_on_stdout():
                return command(console, *args, **kwargs)
        except StorageError:
            raise
        except CfpError as error:
            name_source(click.get_current_context(), error)
            raise

    return begin  # type: ignore[return-value]


def examples(*lines: str) -> str:
    """The last part of a command's help: one example per line."""
    # click reads the backspace as "keep these lines as they are".
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def _flag(attribute: str) -> Callable[[click.Context, click.Parameter, bool], None]:
    def set_flag(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
        console = ctx.ensure_object(Console)
        setattr(console, attribute, value)

    return set_flag


def output_options(command: Command) -> Command:
    """Add `--json`, `-q`, `-v` and `--debug`: how much a command prints, and in what form."""
    for decorator in (
        click.option(
            "--debug",
            is_flag=True,
            expose_value=False,
            callback=_flag("debug"),
            help="Show the traceback of an error.",
        ),
        click.option(
            "-v",
            "--verbose",
            is_flag=True,
            expose_value=False,
            callback=_flag("verbose"),
            help="Also print versions, device, files read and written, and the time of each part.",
        ),
        click.option(
            "-q", "--quiet", is_flag=True, expose_value=False, callback=_flag("quiet"), help="Print errors only."
        ),
        click.option(
            "--json", is_flag=True, expose_value=False, callback=_flag("json"), help="Print one JSON value on stdout."
        ),
    ):
        command = decorator(command)
    return command


class FiniteRange(click.FloatRange):
    """A range of numbers without NaN, which no comparison excludes, and infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number.

        Raises:
            click.BadParameter: it is not a number of the range.
        """
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


run_option = click.option(
    "--run",
    "run_folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_RUN,
    envvar="CFP_RUN",
    show_default=True,
    show_envvar=True,
    help="Run directory.",
)
seed_option = click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of all random choices."
)

reconstruct_option = click.option(
    "--reconstruct/--no-reconstruct",
    default=True,
    show_default=True,
    help="After the rebuild, refit the weights of each remaining layer to its outputs in the original.",
)


@dataclass(frozen=True)
class Compute:
    """The values of `--device`, `--threads` and, where a command has it, `--batch-size`."""

    name: str
    threads: int | None
    batch_size: int

    @property
    def device(self) -> torch.device:
        """The device; sets the number of CPU threads.

        Raises:
            UsageError: there is no such device.
        """
        from cfp_cli.execution.device import choose_device

        return choose_device(self.name, self.threads)


def device_options(command: Command, *others: Callable[[Any], Any]) -> Command:
    """Add `--device` and `--threads`; the command gets them as `compute: Compute`.

    Args:
        command: the command.
        others: further options, whose values `Compute` has too.
    """

    @wraps(command)
    def with_compute(*args: Any, device: str, threads: int | None, **kwargs: Any) -> Any:
        # Commands that train have a --batch-size of their own, which is an option of the training.
        batch_size = kwargs.pop("batch_size") if others else 1
        return command(*args, compute=Compute(device, threads, batch_size), **kwargs)

    decorated: Any = with_compute
    for decorator in (
        *others,
        click.option(
            "--threads", type=click.IntRange(1, 1024), default=None, help="CPU threads.  [default: all cores]"
        ),
        click.option(
            "--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]", help="Where to compute."
        ),
    ):
        decorated = decorator(decorated)
    return decorated  # type: ignore[no-any-return]


def compute_options(batch_size: int) -> Callable[[Command], Command]:
    """Add `--device`, `--threads` and `--batch-size`; the command gets them as `compute: Compute`."""
    batches = click.option(
        "--batch-size", type=click.IntRange(1, 65_536), default=batch_size, show_default=True, help="Images per batch."
    )

    def decorate(command: Command) -> Command:
        return device_options(command, batches)

    return decorate


def target_name(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """The one name of a target; `flops` is a second spelling of `macs`."""
    return "macs" if value == "flops" else value


class RoundTo(click.IntRange):
    """A multiple of channels, or the word `auto`."""

    name = "auto|N"
    word = "auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, or `auto`.

        Raises:
            click.BadParameter: it is neither.
        """
        return value if value == self.word else super().convert(value, param, ctx)


_MULTIPLE = "Keep multiples of this number of channels. Sets with fewer channels keep all of them."


def channel_options(command: Command) -> Command:
    """Add `--round-to`, `--keep` and `--ignore`, which limit the channels that a prune keeps."""
    return _channel_options(
        command,
        click.option("--round-to", type=click.IntRange(1, 65_536), default=1, show_default=True, help=_MULTIPLE),
    )


def shrink_channel_options(command: Command) -> Command:
    """Add `--round-to`, which also takes `auto`, `--keep` and `--ignore`."""
    return _channel_options(
        command,
        click.option(
            "--round-to",
            type=RoundTo(1, 65_536),
            metavar="auto|N",
            default="auto",
            show_default=True,
            help=f"{_MULTIPLE} auto measures layers if --runtime is given or latency counts; without that it is 8 for "
            "multiply-adds of wide networks, else 1.",
        ),
    )


def _channel_options(command: Command, round_to: Callable[[Any], Any]) -> Command:
    options = (
        round_to,
        click.option(
            "--keep",
            multiple=True,
            metavar="PATTERN",
            help="Do not prune channel sets that matching modules make. Repeatable.",
        ),
        click.option(
            "--ignore",
            multiple=True,
            metavar="PATTERN",
            help="Do not prune channel sets that matching modules make or read. Repeatable.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


arch_option = click.option(
    "--arch",
    default=None,
    metavar="NAME",
    help="Architecture: vgg16_bn_gap, repvgg_a0, dddn, torchvision:NAME, timm:NAME or file.py:factory.",
)
unsafe_pickle_option = click.option(
    "--unsafe-pickle",
    is_flag=True,
    help="Also load files that can run code. Use it only for files that you trust.",
)


def permission_options(command: Command) -> Command:
    """Add `--arch` and `--unsafe-pickle`, which a model needs whose file can run code."""
    return arch_option(unsafe_pickle_option(command))


def _fraction(_context: click.Context, _parameter: click.Parameter, text: str) -> float:
    """Parse a fraction such as `1%` or `0.01`.

    Raises:
        click.BadParameter: the text is not a number, or the number is not in [0, 1].
    """
    try:
        value = float(text.rstrip("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise click.BadParameter(f"'{text}' is not a fraction such as 1% or 0.01")
    return value


max_bad_option = click.option(
    "--max-bad",
    default="1%",
    show_default=True,
    callback=_fraction,
    help="Largest fraction of unreadable images; more is an error.",
)


def _bit_depth(_context: click.Context, _parameter: click.Parameter, value: str) -> int | None:
    return None if value == "auto" else int(value)


@dataclass(frozen=True)
class Reading:
    """The values of `--max-bad` and `--bit-depth`: how the images of a data set are read."""

    max_bad: float
    bit_depth: int | None

    def data(self, path: Path, seed: int = 0) -> DataInput:
        """Return the data set of a path."""
        from cfp_cli.runs.inputs import DataInput

        return DataInput(path, seed, max_bad=self.max_bad, bit_depth=self.bit_depth)


def data_options(command: Command) -> Command:
    """Add `--max-bad` and `--bit-depth`; the command gets them as `reading: Reading`."""

    @wraps(command)
    def with_reading(*args: Any, max_bad: float, bit_depth: int | None, **kwargs: Any) -> Any:
        return command(*args, reading=Reading(max_bad, bit_depth), **kwargs)

    decorated: Any = with_reading
    depth = click.option(
        "--bit-depth",
        type=click.Choice(["auto", *map(str, get_args(BitDepth))]),
        default="auto",
        show_default=True,
        callback=_bit_depth,
        help="Bits of white in images of more than 8 bits; 1 for values in [0, 1]. A checkpoint stores its own.",
    )
    return max_bad_option(depth(decorated))  # type: ignore[no-any-return]

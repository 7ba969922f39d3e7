"""The options that state what the file of a model does not contain, and what the user allows for it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cfp_cli.commands.options import arch_option, unsafe_pickle_option
from cfp_cli.foundation.text_file import read_user_text

if TYPE_CHECKING:
    from cfp_cli.runs.inputs import ModelInput, Permission

Command = TypeVar("Command", bound=Callable[..., Any])

SMALLEST, LARGEST = 8, 2**15
# Means and deviations of images in [0, 1] that published networks were trained with.
NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5,), (0.5,)),
    "none": ((0.0,), (1.0,)),
}


@dataclass(frozen=True)
class ModelOptions:
    """The values of the options of `model_options`; None where an option was not given.

    Attributes:
        arch: `--arch`.
        unsafe_pickle: `--unsafe-pickle`.
        input_size: `--input-size`, height and width in pixels.
        mean, std: `--mean` and `--std`, or those of `--normalise`.
        classes: `--classes`.
        weights: `--weights`.
        class_file: the file that `--classes` names, if it names one.
    """

    arch: str | None
    unsafe_pickle: bool
    input_size: tuple[int, int] | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    classes: tuple[str, ...] | None
    weights: str | None
    class_file: Path | None = None

    def file(self, path: Path) -> ModelInput:
        """Return the model file of a path, with these options."""
        from cfp_cli.runs.inputs import ModelInput

        return ModelInput(
            path,
            self.arch,
            self.unsafe_pickle,
            self.input_size,
            self.mean,
            self.std,
            self.classes,
            weights=self.weights,
            class_file=self.class_file,
        )

    @property
    def factory(self) -> str | None:
        """The architecture, if it is code of the user; None otherwise. Code needs `--arch` on each command."""
        return self.arch if self.arch is not None and ".py:" in self.arch else None

    @property
    def given(self) -> tuple[str, ...]:
        """The options as words of a command line: a file that needs them needs them again."""
        size = "x".join(map(str, self.input_size)) if self.input_size is not None else None
        values = {"--arch": self.arch, "--weights": self.weights, "--input-size": size}
        for name, numbers in (("--mean", self.mean), ("--std", self.std)):
            values[name] = ",".join(f"{number:g}" for number in numbers) if numbers is not None else None
        if self.classes is not None:
            values["--classes"] = str(self.class_file) if self.class_file is not None else ",".join(self.classes)
        words = [word for name, value in values.items() if value is not None for word in (name, value)]
        return (*words, *(["--unsafe-pickle"] if self.unsafe_pickle else []))

    @property
    def permission(self) -> Permission:
        """What the user allows for model files that a run directory names."""
        from cfp_cli.runs.inputs import Permission

        return Permission(self.arch, self.unsafe_pickle)


class InputSize(click.ParamType[tuple[int, int]]):
    """The side of square images, such as `256`, or height and width, such as `256x512`."""

    name = "size"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return how help pages show a value."""
        return "SIDE|HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Return height and width; fail with a message for anything else."""
        if isinstance(value, tuple | list):
            value = "x".join(map(str, value))
        parts = str(value).lower().replace("×", "x").split("x")
        if len(parts) > 2 or not all(part.strip().isascii() and part.strip().isdigit() for part in parts):
            self.fail(f"'{value}' is not a side such as 256, or a height and width such as 256x512", param, ctx)
        sides = [int(part) for part in parts]
        if not all(SMALLEST <= side <= LARGEST for side in sides):
            self.fail(f"'{value}' is not between {SMALLEST} and {LARGEST} pixels", param, ctx)
        return sides[0], sides[-1]


class Numbers(click.ParamType[tuple[float, ...]]):
    """One number for all channels, or one for each, separated by blanks or commas.

    Args:
        largest: largest number that images in [0, 1] can need; a larger one is of images in [0, 255].
        positive: refuse 0.
    """

    name = "numbers"

    def __init__(self, largest: float, *, positive: bool) -> None:
        self.largest, self.positive = largest, positive

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return how help pages show a value."""
        return "NUMBER..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Return the numbers; fail with a message for anything else."""
        parts = list(value) if isinstance(value, tuple | list) else str(value).replace(",", " ").split()
        try:
            numbers = tuple(float(part) for part in parts)
        except (ValueError, TypeError):
            numbers = ()
        if not numbers or not all(abs(number) < float("inf") for number in numbers):
            self.fail(f"'{value}' is not numbers such as 0.485,0.456,0.406", param, ctx)
        if max(numbers) > self.largest:
            self.fail(f"{max(numbers):g} is for images in [0, 255]; divide it by 255, cfp scales images to [0, 1]")
        if min(numbers) < 0 or (self.positive and min(numbers) == 0):
            self.fail(f"{min(numbers):g} is not {'above' if self.positive else 'at least'} 0", param, ctx)
        return numbers


class _SeveralNumbers(click.Option):
    """An option that takes all numbers behind it: `--mean 0.5 0.5 0.5`. click itself supports only a fixed number."""

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Let the parser join the numbers behind the option to one value."""
        super().add_to_parser(parser, ctx)
        option = parser._long_opt[self.opts[0]]
        process = option.process

        def process_all(value: Any, state: Any) -> None:
            values = [value]
            while state.rargs and _is_number(state.rargs[0]):
                values.append(state.rargs.pop(0))
            process(" ".join(map(str, values)), state)

        option.process = process_all


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


_CLASS_FILE = "cfp_cli.class_file"


def _class_names(context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Read class names separated by commas, or one on each line of a text file.

    Raises:
        click.BadParameter: there are no names, a name occurs twice, or the file is not text.
    """
    if value is None:
        return None
    file = Path(value)
    try:
        text = read_user_text(file) if file.is_file() else None
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{value} is not a text file in UTF-8 or UTF-16; save it as UTF-8") from error
    if text is not None:
        context.meta[_CLASS_FILE] = file
    parts = value.split(",") if text is None else text.splitlines()
    names = tuple(part.strip() for part in parts if part.strip())
    if len(set(names)) < max(len(names), 1):
        raise click.BadParameter(f"'{value}' names no class, or one class twice; separate names by commas")
    return names


input_size_option = functools.partial(click.option, "--input-size", type=InputSize(), default=None)


def normalisation_options(command: Command) -> Command:
    """Add `--mean`, `--std` and `--normalise`; the command gets `mean` and `std` of type `tuple[float, ...] | None`."""

    @functools.wraps(command)
    def with_values(*args: Any, normalise: str | None, mean: Any, std: Any, **kwargs: Any) -> Any:
        if normalise is not None:
            if mean is not None or std is not None:
                raise click.UsageError("--normalise sets mean and std; leave out --mean and --std")
            mean, std = NORMALISATIONS[normalise]
        return command(*args, mean=mean, std=std, **kwargs)

    decorated: Any = with_values
    for option in (
        click.option(
            "--normalise",
            type=click.Choice(list(NORMALISATIONS)),
            default=None,
            help="Mean and std by name: imagenet, half (0.5 and 0.5) or none.",
        ),
        click.option(
            "--std", cls=_SeveralNumbers, type=Numbers(2.0, positive=True), default=None, help="Likewise the deviation."
        ),
        click.option(
            "--mean",
            cls=_SeveralNumbers,
            type=Numbers(1.0, positive=False),
            default=None,
            help="Mean of images in [0, 1], one or one for each channel, if the file does not contain it.",
        ),
    ):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]


def model_options(command: Command) -> Command:
    """Add the options of a model that is not a cfp checkpoint; the command gets them as `how: ModelOptions`."""

    @functools.wraps(command)
    def with_options(
        *args: Any,
        arch: str | None,
        unsafe_pickle: bool,
        input_size: tuple[int, int] | None,
        mean: tuple[float, ...] | None,
        std: tuple[float, ...] | None,
        classes: tuple[str, ...] | None,
        weights: str | None,
        **kwargs: Any,
    ) -> Any:
        file = click.get_current_context().meta.get(_CLASS_FILE)
        how = ModelOptions(arch, unsafe_pickle, input_size, mean, std, classes, weights, file)
        return command(*args, how=how, **kwargs)

    classes_option = click.option(
        "--classes",
        default=None,
        metavar="A,B,...|FILE",
        callback=_class_names,
        help="Class names in the order of the outputs, if the file does not contain them.",
    )
    weights_option = click.option(
        "--weights",
        default=None,
        metavar="NAME",
        help="Entry of the file or prefix of its names that holds the weights, if several fit.  [default: an average]",
    )
    size = input_size_option(
        help="Input side, or height and width, if the file does not contain it. `cfp train --init` takes this size."
    )
    decorated: Any = normalisation_options(classes_option(weights_option(unsafe_pickle_option(with_options))))
    return arch_option(size(decorated))  # type: ignore[no-any-return]

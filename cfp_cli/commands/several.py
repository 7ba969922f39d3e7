"""Options that take several values in a row, such as `--teachers a.pt b.pt`. click itself supports only one value."""

from __future__ import annotations

import click


def takes_several(most: dict[str, int]) -> type[click.Command]:
    """Return a class of commands with options that take several values.

    Args:
        most: largest number of values of each option, by the option's name; each must be declared `multiple`.
    """

    class TakesSeveral(click.Command):
        def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
            """Rewrite `--name a b` to `--name a --name b`, which click understands."""
            rewritten: list[str] = []
            name, remaining = "", 0
            for argument in args:
                if argument.startswith("-"):
                    name, remaining = argument, most.get(argument, 0)
                elif remaining:
                    # The first value follows its option already.
                    rewritten += [name] if remaining < most[name] else []
                    remaining -= 1
                elif name in most:
                    # Without this error, click would take the value for an argument of the command.
                    message = (
                        f"{name} takes {most[name]} values, {argument} is one too many; put arguments before options"
                    )
                    raise click.UsageError(message, ctx)
                rewritten.append(argument)
            return super().parse_args(ctx, rewritten)

    return TakesSeveral

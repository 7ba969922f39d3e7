"""Options that take the values that follow them: `--teachers a.pt b.pt`."""

from __future__ import annotations

import click


def takes_several(most: dict[str, int]) -> type[click.Command]:
    """A class of commands whose options, by name, take up to so many values; each is declared `multiple`."""

    class TakesSeveral(click.Command):
        def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
            """Write `--name a b` as `--name a --name b`, which click understands."""
            found: list[str] = []
            name, left = "", 0
            for argument in args:
                if argument.startswith("-"):
                    name, left = argument, most.get(argument, 0)
                elif left:
                    # The first value stands behind its option already.
                    found += [name] if left < most[name] else []
                    left -= 1
                elif name in most:
                    # Taken for an argument of the command, it would be used for something else than it was meant for.
                    message = (
                        f"{name} takes {most[name]} values, so {argument} is one too many; arguments stand before it"
                    )
                    raise click.UsageError(message, ctx)
                found.append(argument)
            return super().parse_args(ctx, found)

    return TakesSeveral

"""Options that take a number refuse NaN and infinity."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from cfp_cli.commands.cli import cli


def _commands(group: click.Group) -> list[click.Command]:
    context = click.Context(group)
    commands = [group.get_command(context, name) for name in group.list_commands(context)]
    return [
        each
        for command in commands
        if command is not None
        for each in (_commands(command) if isinstance(command, click.Group) else [command])
    ]


OPTIONS = [
    pytest.param(command, option, id=f"{command.name} {option.name}")
    for command in _commands(cli)
    for option in command.params
    if isinstance(option, click.Option) and isinstance(option.type, click.FloatRange)
]


@pytest.mark.parametrize("text", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(("command", "option"), OPTIONS)
def test_ranges_hold_no_nan_and_no_infinity(command: click.Command, option: click.Option, text: str) -> None:
    done = CliRunner().invoke(command, [option.opts[0], text, "x", "y"])
    assert done.exit_code == 2
    assert f"Invalid value for '{option.opts[0]}'" in done.output

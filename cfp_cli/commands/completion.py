"""`cfp completion SHELL`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from cfp_cli.commands.options import examples


@click.command(
    short_help="Print a shell's completion script.",
    epilog=examples(
        'eval "$(cfp completion bash)"    # in ~/.bashrc', "cfp completion fish > ~/.config/fish/completions/cfp.fish"
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that lets SHELL complete the commands and options of cfp."""
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, "cfp", "_CFP_COMPLETE").source())

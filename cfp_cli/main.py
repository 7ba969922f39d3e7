"""The command line: a table of contents, and the one place where failures become exit codes.

Exit codes: 0 done, 1 a failure the message explains, 2 wrong usage, 3 the target cannot be met, 130 interrupted.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

import click

from cfp_cli.commands.bench import bench
from cfp_cli.commands.compare import compare
from cfp_cli.commands.completion import completion
from cfp_cli.commands.config import read_defaults
from cfp_cli.commands.console import Console
from cfp_cli.commands.data import data
from cfp_cli.commands.demo import demo
from cfp_cli.commands.eval import evaluate
from cfp_cli.commands.export import export
from cfp_cli.commands.finetune import finetune
from cfp_cli.commands.fuse import fuse
from cfp_cli.commands.inspect import inspect
from cfp_cli.commands.prune import prune
from cfp_cli.commands.report import report
from cfp_cli.commands.score import score
from cfp_cli.commands.train import train
from cfp_cli.foundation.errors import CfpError
from cfp_cli.foundation.versions import versions

# Commands that may time networks.
TIMING = ("bench", "prune", "report", "demo")


def _show_version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        found = versions()
        click.echo(f"cfp {found.pop('cfp')} ({', '.join(f'{name} {number}' for name, number in found.items())})")
        ctx.exit()


class InOrder(click.Group):
    """A group that lists its commands in the order of the work."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order in which they were added."""
        return list(self.commands)


@click.group(cls=InOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show versions."
)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Shrink defect-inspection CNNs 40 to 100 times without losing the rare classes.

    \b
    Three lines, from a trained model to a small one:
      cfp score model.pt data/
      cfp prune --ratio 0.95
      cfp finetune --teachers rl.pt cl.pt

    Or see it all on a generated data set: cfp demo
    """  # noqa: D301 - click reads the backspace as "keep these lines"
    # torch's threads spin while they wait for work, on the cores that the scoring core or another program could use.
    # Asleep they take longer to wake than a layer of a small network takes, which is not what its users will see. torch
    # reads this when it is imported, which is later.
    if ctx.invoked_subcommand not in TIMING:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


for command in (
    demo,
    train,
    score,
    prune,
    finetune,
    evaluate,
    bench,
    compare,
    inspect,
    export,
    report,
    fuse,
    data,
    completion,
):
    cli.add_command(command)


def main() -> NoReturn:
    """Run the command line and leave with the exit code that says how it went."""
    console = Console()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = cli.main(prog_name="cfp", obj=console, default_map=read_defaults(cli), standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.UsageError as error:
        hint = f"; see `{error.ctx.command_path} --help`" if error.ctx else ""
        console.error(error.format_message().rstrip(".") + hint)
        sys.exit(2)
    except click.ClickException as error:
        console.error(error.format_message())
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        resumed = "; --resume goes on from there" if sys.argv[1:2] in (["train"], ["finetune"]) else ""
        console.error(f"interrupted; finished steps are kept{resumed}")
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except CfpError as error:
        if console.debug:
            raise
        console.error(str(error))
        sys.exit(error.exit_code)
    except MemoryError:
        console.error("out of memory; use a smaller --batch-size")
        sys.exit(1)
    except OSError as error:
        if console.debug:
            raise
        console.error(
            f"cannot use {error.filename or 'a file'} ({error.strerror or error}); check the path and its rights"
        )
        sys.exit(1)
    except Exception as error:
        if console.debug:
            raise
        console.error(f"{type(error).__name__}: {error}; this is a bug, --debug shows where")
        sys.exit(1)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt

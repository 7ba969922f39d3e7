"""The `cfp` command: all commands in the order of the work."""

from __future__ import annotations

import os

import click

from cfp_cli.commands.bench import bench
from cfp_cli.commands.compare import compare
from cfp_cli.commands.completion import completion
from cfp_cli.commands.data import data
from cfp_cli.commands.demo import demo
from cfp_cli.commands.eval import evaluate
from cfp_cli.commands.export import export
from cfp_cli.commands.finetune import finetune
from cfp_cli.commands.fuse import fuse
from cfp_cli.commands.group import CommandGroup
from cfp_cli.commands.inspect import inspect
from cfp_cli.commands.predict import predict
from cfp_cli.commands.prune import prune
from cfp_cli.commands.report import report
from cfp_cli.commands.score import score
from cfp_cli.commands.shrink import shrink
from cfp_cli.commands.train import train
from cfp_cli.foundation.versions import versions

# Commands that may time networks.
TIMING = ("bench", "prune", "report", "demo")


def _show_version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        numbers = versions()
        click.echo(f"cfp {numbers.pop('cfp')} ({', '.join(f'{name} {number}' for name, number in numbers.items())})")
        ctx.exit()


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show versions."
)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Shrink defect-inspection CNNs 40 to 100 times without losing the rare classes.

    \b
    One line, from a trained model to the smallest one within 0.5 points:
      cfp shrink model.pt data/ --max-loss 0.5

    \b
    Stage by stage:
      cfp score model.pt data/
      cfp prune --ratio 0.95
      cfp finetune --teachers rl.pt cl.pt

    To see everything on a generated data set, run cfp demo.
    """  # noqa: D301 - click reads the backspace as "keep these lines"
    # By default, idle threads of torch spin. They take CPU cores from the scoring core and from other programs. PASSIVE
    # makes them sleep. Waking them slows a small network down, so commands that measure latency keep the default. torch
    # reads this variable when it is imported, which happens later.
    if ctx.invoked_subcommand not in TIMING:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Where another process cannot be reached, torch prints pages of C++ addresses before the error that `join` reports.
    if "WORLD_SIZE" in os.environ:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")


for command in (
    demo,
    shrink,
    train,
    score,
    prune,
    finetune,
    evaluate,
    predict,
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

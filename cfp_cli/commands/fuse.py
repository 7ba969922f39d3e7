"""`cfp fuse MODEL --out F`."""

from __future__ import annotations

from pathlib import Path

import click

from cfp_cli.commands.console import Console
from cfp_cli.commands.model_options import ModelOptions, model_options
from cfp_cli.commands.options import examples, output_options, pass_console


@click.command(
    short_help="Merge each RepVGG training block into one convolution.",
    epilog=examples("cfp fuse cfp-run/finetuned.pt --out fused.pt"),
)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Checkpoint to write.")
@model_options
@output_options
@pass_console
def fuse(console: Console, model: Path, out: Path, how: ModelOptions) -> None:
    """Merge each RepVGG training block of MODEL into one convolution.

    MODEL may be pruned. The result is written only if it gives the same logits.
    """
    from cfp_cli.runs.fuse import run_fuse

    done = run_fuse(how.file(model), out)
    console.result(
        done,
        f"{done.params_before:,} to {done.params_after:,} parameters, "
        f"largest logit error {done.max_relative_error:.1e} of the largest logit",
        f"written {out}",
    )

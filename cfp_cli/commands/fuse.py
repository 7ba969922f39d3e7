"""`cfp fuse MODEL --out F`."""

from __future__ import annotations

from pathlib import Path

import click

from cfp_cli.commands.console import Console
from cfp_cli.commands.options import examples, model_options, output_options, pass_console


@click.command(
    short_help="Turn RepVGG training blocks into single convolutions.",
    epilog=examples("cfp fuse cfp-run/finetuned.pt --out fused.pt"),
)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Checkpoint to write.")
@model_options
@output_options
@pass_console
def fuse(
    console: Console, model: Path, out: Path, arch: str | None, input_size: int | None, unsafe_pickle: bool
) -> None:
    """Fuse the RepVGG training blocks of MODEL, pruned or not; the fused network must give the same logits."""
    from cfp_cli.runs.fuse import run_fuse
    from cfp_cli.runs.inputs import ModelInput

    done = run_fuse(ModelInput(model, arch, input_size, unsafe_pickle), out)
    console.result(
        done.to_json(),
        f"{done.params_before:,} to {done.params_after:,} parameters, "
        f"logits equal within {done.max_relative_error:.1e} of the largest",
        f"written {out}",
    )

"""`cfp prune [MODEL] --ratio R`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cfp_cli.commands.console import Console
from cfp_cli.commands.options import (
    compute_options,
    examples,
    model_options,
    output_options,
    pass_console,
    reconstruct_option,
    run_option,
    seed_option,
)

if TYPE_CHECKING:
    from rich.table import Table

    from cfp_cli.runs.prune import Pruned


@click.command(
    short_help="Prune the scored model to a target.",
    epilog=examples(
        "cfp prune --ratio 0.95",
        "cfp prune --ratio 0.9 --keep 'layer1.*' --round-to 8",
        "cfp prune --rates '[0.4]*5+[0.5]*9' --dry-run",
        "cfp prune --plan cfp-run/plan.json",
    ),
)
@click.argument("model", type=click.Path(path_type=Path), required=False)
@model_options
@click.option("--ratio", type=float, default=None, help="Fraction of the target to remove, such as 0.95.")
@click.option("--rates", default=None, help="Rates by hand: '[0.]+[0.25]*6' in network order, or 'layer1.*=0.5,...'.")
@click.option(
    "--target",
    type=click.Choice(["params", "flops", "latency"]),
    default="params",
    show_default=True,
    help="What --ratio counts; latency is measured here.",
)
@click.option(
    "--allocation",
    type=click.Choice(["redundancy", "uniform"]),
    default="redundancy",
    show_default=True,
    help="How the ratio is spread over the layers.",
)
@click.option("--clusters", default="adaptive:2", show_default=True, help="K clusters a set, or adaptive:S.")
@click.option("--min-channels", type=click.IntRange(1), default=1, show_default=True, help="Fewest channels of a set.")
@click.option(
    "--round-to", type=click.IntRange(1), default=1, show_default=True, help="Kept counts are multiples of it."
)
@click.option("--keep", multiple=True, metavar="PATTERN", help="Keep all outputs of matching modules. Repeatable.")
@click.option("--ignore", multiple=True, metavar="PATTERN", help="Leave matching modules untouched. Repeatable.")
@click.option("--compat", type=click.Choice(["reference"]), default=None, help="Select as the published results did.")
@click.option("--plan", "plan_file", type=click.Path(path_type=Path), default=None, help="Carry out this plan again.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=None, help="Checkpoint to write.  [default: RUN/pruned.pt]"
)
@click.option("--steps", type=click.IntRange(1), default=1, show_default=True, help="Prune in so many steps.")
@click.option(
    "--recovery-epochs",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="With --steps: epochs of distillation from MODEL between two steps.",
)
@reconstruct_option
@click.option("--bn-recalibrate/--no-bn-recalibrate", default=True, show_default=True, help="Re-estimate batch norm.")
@click.option("--dry-run", is_flag=True, help="Show the plan and write nothing.")
@run_option
@seed_option
@compute_options(batch_size=64)
@output_options
@pass_console
def prune(
    console: Console,
    model: Path | None,
    arch: str | None,
    input_size: int | None,
    unsafe_pickle: bool,
    ratio: float | None,
    rates: str | None,
    target: str,
    allocation: str,
    clusters: str,
    min_channels: int,
    round_to: int,
    keep: tuple[str, ...],
    ignore: tuple[str, ...],
    compat: str | None,
    plan_file: Path | None,
    out: Path | None,
    steps: int,
    recovery_epochs: int,
    reconstruct: bool,
    bn_recalibrate: bool,
    dry_run: bool,
    run_folder: Path,
    seed: int,
    device: str,
    threads: int | None,
    batch_size: int,
) -> None:
    """Prune the scored model: cluster, select, rebuild, prove, reconstruct.

    MODEL is the one that `cfp score` read and may be left out.
    """
    from cfp_cli.execution.device import choose_device
    from cfp_cli.foundation.errors import UsageError
    from cfp_cli.pruning.plan import Plan
    from cfp_cli.pruning.prune import PruneOptions
    from cfp_cli.pruning.restore import Restoration
    from cfp_cli.runs.directory import Run
    from cfp_cli.runs.inputs import ModelInput
    from cfp_cli.runs.prune import run_prune

    if plan_file is not None and (ratio is not None or rates is not None or steps > 1):
        raise UsageError("a plan already says what is kept; leave out --ratio, --rates and --steps, or --plan")
    options = None
    if plan_file is None:
        options = PruneOptions(
            ratio=ratio,
            rates=rates,
            target=target,
            allocation=allocation,
            clusters=clusters,
            min_channels=min_channels,
            round_to=round_to,
            keep=keep,
            ignore=ignore,
            reference=compat == "reference",
        )
    done = run_prune(
        Run.open(run_folder),
        ModelInput(model, arch, input_size, unsafe_pickle) if model is not None else None,
        options,
        replay=Plan.load(plan_file) if plan_file is not None else None,
        steps=steps,
        recovery_epochs=recovery_epochs,
        out=out,
        restoration=Restoration(reconstruct, bn_recalibrate),
        dry_run=dry_run,
        batch_size=batch_size,
        seed=seed,
        device=choose_device(device, threads),
        progress=console,
    )
    plan = done.plan
    console.result(
        {
            "params_before": plan.params_before,
            "params_after": plan.params_after,
            "macs_before": plan.macs_before,
            "macs_after": plan.macs_after,
            "requested": plan.requested,
            "achieved": plan.achieved,
            "compression": plan.compression,
            "max_abs_logit_error": plan.max_abs_logit_error,
            "out": str(done.out) if done.out else None,
            "target": plan.target,
            "accuracy": {stage: metrics.accuracy for stage, metrics in done.validation.items()},
            "sets": [
                {
                    "name": group.name,
                    "channels": group.channels,
                    "kept": len(group.kept),
                    "clusters": max(group.clusters, default=0),
                    "frozen": list(group.frozen),
                }
                for group in plan.sets
            ],
        },
        sets_table(done),
        summary_table(done),
        f"written {done.out}" if done.out else "dry run: nothing written",
    )


def sets_table(done: Pruned) -> Table:
    """What each channel set keeps."""
    from rich.table import Table

    table = Table("channel set", "before", "after", "clusters", "frozen", title="plan")
    for group in done.plan.sets:
        clusters = str(max(group.clusters)) if group.clusters else ""
        table.add_row(group.name, str(group.channels), str(len(group.kept)), clusters, "; ".join(group.frozen))
    return table


def summary_table(done: Pruned) -> Table:
    """Before and after."""
    from rich.table import Table

    plan = done.plan
    table = Table("", "before", "after", "change", title="pruned")
    table.add_row("parameters", f"{plan.params_before:,}", f"{plan.params_after:,}", f"{plan.compression:.1f}x fewer")
    times = plan.macs_before / max(plan.macs_after, 1)
    table.add_row(
        "multiply-adds", f"{plan.macs_before / 1e6:,.1f} M", f"{plan.macs_after / 1e6:,.1f} M", f"{times:.1f}x fewer"
    )
    asked = f"asked {plan.requested:.2%}" if plan.requested is not None else "by rates"
    table.add_row(f"removed ({plan.target})", "", f"{plan.achieved:.2%}", asked)
    for stage, metrics in list(done.validation.items())[1:]:
        before, after = (f"{each.accuracy:.2%}" for each in (done.validation["before"], metrics))
        table.add_row(f"val accuracy, {stage}", before, after, "")
    if done.out:
        table.add_row("largest logit error of the rebuild", "", f"{plan.max_abs_logit_error:.1e}", "proven")
    return table

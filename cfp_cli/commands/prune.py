"""`cfp prune [MODEL] --ratio R`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cfp_cli.commands.console import Console
from cfp_cli.commands.figures import INTERVALS, collapse_verdict, figure, guessing_verdict, worst_class
from cfp_cli.commands.model_options import ModelOptions, model_options
from cfp_cli.commands.options import (
    Compute,
    channel_options,
    compute_options,
    examples,
    output_options,
    pass_console,
    reconstruct_option,
    run_option,
    seed_option,
    target_name,
)
from cfp_cli.commands.tables import sentence
from cfp_cli.pruning.options import ALLOCATIONS, TARGETS

if TYPE_CHECKING:
    from rich.table import Table

    from cfp_cli.measuring.metrics import Metrics
    from cfp_cli.pruning.plan import Plan


# What the last stage of a prune does, by the name of the stage.
REPAIRS = {"reconstructed": "the refit", "recalibrated": "recalibrating batch norm"}
TRAIN_ON = (
    "without labels, fine-tuning distils the outputs of the original; docs/dense.md shows how to train on elsewhere"
)
REMEDY = "fine-tune it with `cfp finetune`, or prune less"


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
@click.option(
    "--rates",
    default=None,
    help="Fraction to remove from each channel set: '[0.]+[0.25]*6' in network order, or 'layer1.*=0.5,...' by name.",
)
@click.option(
    "--target",
    type=click.Choice([*TARGETS, "flops"]),
    default="params",
    show_default=True,
    callback=target_name,
    help="What --ratio counts: parameters, multiply-adds (also flops), latency measured on this machine, or bytes of "
    "the weights alone (`cfp shrink` counts those of the whole ONNX file).",
)
@click.option(
    "--allocation",
    type=click.Choice(ALLOCATIONS),
    default=None,
    show_default="measured for --target macs if there are 32 training images, else redundancy",
    help="How the ratio is spread over the channel sets. redundancy: more is removed from redundant sets; uniform: one "
    "fraction for all; measured: prune with several allocations, compare the outputs with the original's on training "
    "images, and take the nearest.",
)
@click.option(
    "--candidates",
    type=click.IntRange(1, 100_000),
    default=4,
    show_default=True,
    help="Number of networks that --allocation measured tries. With about 8 or more it also changes single sets.",
)
@click.option(
    "--clusters",
    default="adaptive:2",
    show_default=True,
    help="Clusters of a channel set: K for K clusters, adaptive:S to cut the tree at a distance.",
)
@click.option(
    "--min-channels",
    type=click.IntRange(1, 65_536),
    default=1,
    show_default=True,
    help="Smallest number of channels that a set keeps.",
)
@channel_options
@click.option(
    "--compat",
    type=click.Choice(["reference"]),
    default=None,
    help="reference: in each cluster keep the channels that the published results kept. Needs --rates.",
)
@click.option(
    "--plan",
    "plan_file",
    type=click.Path(path_type=Path),
    default=None,
    help="Prune as a saved plan.json says, instead of --ratio or --rates.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=None, help="Checkpoint to write.  [default: RUN/pruned.pt]"
)
@click.option(
    "--rounds",
    "--steps",
    "rounds",
    type=click.IntRange(1, 100),
    default=1,
    show_default=True,
    help="Number of rounds, with a short training between two rounds.",
)
@click.option(
    "--recovery-epochs",
    type=click.IntRange(1, 10_000),
    default=10,
    show_default=True,
    help="With --rounds: epochs of distillation from MODEL between two rounds.",
)
@reconstruct_option
@click.option(
    "--bn-recalibrate/--no-bn-recalibrate",
    default=True,
    show_default=True,
    help="Re-estimate the statistics of batch norm.",
)
@click.option("--dry-run", is_flag=True, help="Show the plan and write nothing.")
@run_option
@seed_option
@compute_options(batch_size=64)
@output_options
@pass_console
def prune(
    console: Console,
    /,
    model: Path | None,
    how: ModelOptions,
    plan_file: Path | None,
    out: Path | None,
    rounds: int,
    recovery_epochs: int,
    reconstruct: bool,
    bn_recalibrate: bool,
    dry_run: bool,
    run_folder: Path,
    seed: int,
    compute: Compute,
    compat: str | None,
    **options: Any,
) -> None:
    """Prune the scored model: cluster, select, rebuild, prove, refit.

    MODEL is the model that `cfp score` read; you can leave it out.
    """
    from cfp_cli.foundation.errors import RunError, UsageError
    from cfp_cli.pruning.options import PruneOptions
    from cfp_cli.pruning.plan import Plan, PlanMisfitError
    from cfp_cli.pruning.refit import Refit
    from cfp_cli.runs.directory import Run
    from cfp_cli.runs.next_step import finetune_line
    from cfp_cli.runs.output_path import check_output
    from cfp_cli.runs.prune import plan_prune, run_prune

    if plan_file is not None and (options["ratio"] is not None or options["rates"] is not None or rounds > 1):
        raise UsageError("--plan already says what is kept; leave out --ratio, --rates and --rounds, or --plan")
    request = (
        Plan.load(plan_file) if plan_file is not None else PruneOptions(**options, published=compat == "reference")
    )
    source = how.file(model) if model is not None else None
    permission = how.permission
    where = compute.device
    if dry_run:
        plan = plan_prune(
            Run.open(run_folder),
            source,
            request,
            rounds=rounds,
            batch_size=compute.batch_size,
            seed=seed,
            permission=permission,
            device=where,
            progress=console,
        )
        console.result(
            {**facts(plan), "rounds": rounds, "out": None, "accuracy": {}, "validation": {}},
            sets_table(plan),
            summary_table(plan, {}),
            "dry run: nothing written" if rounds == 1 else first_round_note(plan, rounds, options["ratio"]),
        )
        return
    if plan_file is not None and out is not None:
        check_output(out, inputs=[plan_file])
    try:
        with Run.exclusive(run_folder) as run:
            done = run_prune(
                run,
                source,
                request,
                rounds=rounds,
                permission=permission,
                recovery_epochs=recovery_epochs,
                out=out,
                refit=Refit(reconstruct, bn_recalibrate),
                batch_size=compute.batch_size,
                seed=seed,
                device=where,
                progress=console,
            )
    except PlanMisfitError as error:
        raise RunError(f"{plan_file}: {error}") from error
    accuracy = {stage: metrics.accuracy for stage, metrics in done.validation.items()}
    validation = {stage: metrics.to_json() for stage, metrics in done.validation.items()}
    verdicts: tuple[str, ...] = (TRAIN_ON,)
    if done.validation:
        verdicts = (
            *guessing_verdict(done.validation["before"], "the original"),
            *pruned_verdict(list(done.validation.values())[-1], done.out.name),
        )
    console.result(
        {
            **facts(done.plan),
            "rounds": rounds,
            "out": str(done.out),
            "accuracy": accuracy,
            "validation": validation,
            "output_error": dict(done.output_error),
        },
        sets_table(done.plan),
        summary_table(done.plan, done.validation, done.output_error),
        *verdicts,
        f"written {done.out}",
        f"next: {finetune_line(run, how.factory)}",
    )


def pruned_verdict(metrics: Metrics, name: str) -> tuple[str, ...]:
    """One line if the pruned network collapsed or is no better than guessing, else nothing.

    Args:
        metrics: its metrics on the validation images.
        name: what the line calls it.
    """
    return collapse_verdict(metrics, name, REMEDY) or guessing_verdict(metrics, name, REMEDY)


def first_round_note(plan: Plan, rounds: int, ratio: float | None) -> str:
    """What a dry run of several rounds shows."""
    return (
        f"dry run: nothing written; this is round 1 of {rounds}, which removes {plan.achieved:.2%}. The later rounds "
        f"depend on the training between them and remove {ratio or 0:.2%} in all"
    )


def facts(plan: Plan) -> dict[str, Any]:
    """The figures of a plan as plain data."""
    return {
        "params_before": plan.params_before,
        "params_after": plan.params_after,
        "macs_before": plan.macs_before,
        "macs_after": plan.macs_after,
        "requested": plan.requested,
        "achieved": plan.achieved,
        "compression": plan.compression,
        "max_abs_logit_error": plan.max_abs_logit_error,
        "target": plan.target,
        "allocation": plan.options.get("allocation"),
        "sets": [
            {
                "name": each.name,
                "channels": each.channels,
                "kept": len(each.kept),
                "clusters": max(each.clusters, default=0),
                "frozen": list(each.frozen),
            }
            for each in plan.sets
        ],
    }


def sets_table(plan: Plan) -> Table:
    """How many channels each channel set keeps."""
    from rich.table import Table

    table = Table("channel set", "before", "after", "clusters", "frozen", title="plan")
    for each in plan.sets:
        clusters = str(max(each.clusters)) if each.clusters else ""
        frozen = sentence("; ".join(each.frozen))
        table.add_row(each.name, str(each.channels), str(len(each.kept)), clusters, frozen)
    return table


def summary_table(
    plan: Plan, validation: Mapping[str, Metrics], output_error: Mapping[str, float] | None = None
) -> Table:
    """Figures before and after."""
    from rich.table import Table

    table = Table("", "before", "after", "change", title="pruned", caption=INTERVALS if validation else None)
    table.add_row("parameters", f"{plan.params_before:,}", f"{plan.params_after:,}", f"{plan.compression:.1f}x fewer")
    times = plan.macs_before / max(plan.macs_after, 1)
    table.add_row(
        "multiply-adds", f"{plan.macs_before / 1e6:,.1f} M", f"{plan.macs_after / 1e6:,.1f} M", f"{times:.1f}x fewer"
    )
    asked = f"asked {plan.requested:.2%}" if plan.requested is not None else "by rates"
    table.add_row(f"removed ({plan.target})", "", f"{plan.achieved:.2%}", asked)
    if plan.options.get("allocation"):
        tried = plan.options.get("candidates")
        table.add_row("allocation", "", str(plan.options["allocation"]), f"up to {tried} tried" if tried else "")
    if validation:
        original, (*earlier, (stage, last)) = validation["before"], list(validation.items())[1:]
        for name, label in (("accuracy", "accuracy"), ("macro_f1", "macro-F1")):
            change = f"{(getattr(last, name) - getattr(original, name)) * 100:+.2f} points"
            table.add_row(f"val {label}", figure(original, name), figure(last, name), change)
        verdict = "collapsed" if last.collapse else ""
        table.add_row("val worst class", worst_class(original), worst_class(last), verdict)
        for _, metrics in earlier:
            # The network of this stage is never written: the next stage repairs it.
            table.add_row(sentence(f"val accuracy before {REPAIRS[stage]}"), "", f"{metrics.accuracy:.2%}", "")
    if output_error:
        (*others, (stage, error)) = [each for each in output_error.items() if each[0] != "before"]
        table.add_row(sentence("val error of the outputs"), "", f"{error:.2%}", "of their spread")
        for _, earlier_error in others:
            table.add_row(sentence(f"val error before {REPAIRS[stage]}"), "", f"{earlier_error:.2%}", "")
    if validation or output_error:
        outputs = "logit" if validation else "output"
        table.add_row(
            sentence(f"largest {outputs} error of the rebuild"), "", f"{plan.max_abs_logit_error:.1e}", "proven"
        )
    return table

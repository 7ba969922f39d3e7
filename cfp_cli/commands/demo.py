"""`cfp demo`."""

from __future__ import annotations

from pathlib import Path

import click

from cfp_cli.commands.console import Console
from cfp_cli.commands.options import (
    Compute,
    device_options,
    examples,
    output_options,
    pass_console,
    run_option,
    seed_option,
)


@click.command(
    short_help="Run the complete pipeline on generated images.",
    epilog=examples("cfp demo", "cfp demo --run demo-run --json"),
)
@run_option
@seed_option
@device_options
@output_options
@pass_console
def demo(console: Console, run_folder: Path, seed: int, compute: Compute) -> None:
    """Run the complete pipeline on generated images of surface defects.

    It trains two teachers, scores, prunes by 95 %, fine-tunes, exports to ONNX and writes a report. Nothing is
    downloaded. It takes two to five minutes on two cores.
    """
    from cfp_cli.commands.finetune import summary_tables as finetuned_tables
    from cfp_cli.commands.finetune import verdicts
    from cfp_cli.commands.prune import summary_table as pruned_table
    from cfp_cli.commands.training import show_epochs
    from cfp_cli.runs.demo import run_demo
    from cfp_cli.runs.directory import Run

    with Run.exclusive(run_folder) as run:
        done = run_demo(
            run,
            seed=seed,
            device=compute.device,
            show_epochs=lambda options: show_epochs(console, options),
            progress=console,
        )
    plan, history = done.pruned.plan, done.finetuned.history
    console.result(
        {
            "data": str(done.data),
            "params_before": plan.params_before,
            "params_after": plan.params_after,
            "compression": plan.compression,
            "teachers": [each.to_json() if each else None for each in done.finetuned.teachers],
            "val": history.val.to_json() if history.val else None,
            "test": history.test.to_json() if history.test else None,
            "out": str(done.finetuned.out),
            "export": str(done.export) if done.export else None,
            "report": str(done.report) if done.report else None,
        },
        pruned_table(plan, done.pruned.validation),
        *finetuned_tables(done.finetuned),
        *verdicts(done.finetuned, "accuracy"),
        f"written {done.finetuned.out}",
        *(f"written {path}" for path in (done.export, done.report) if path is not None),
    )

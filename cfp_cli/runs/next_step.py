"""The command that continues a run, by what its records say is done."""

from __future__ import annotations

from cfp_cli.runs.command_line import DEFAULT_RUN, command_line
from cfp_cli.runs.directory import Run
from cfp_cli.runs.records import ExportRecord, FinetuneRecord, PruneRecord, ScoreRecord


def next_step(run: Run, prune: PruneRecord | None, finetune: FinetuneRecord | None, arch: str | None) -> str:
    """Return the command line that continues a scored run.

    Args:
        run: the run.
        prune: the prune of the scored model; None if it is not pruned.
        finetune: the fine-tuning of the pruned model; None if it is not fine-tuned.
        arch: Python code of the user that builds the networks, which each command needs; None without such code.
    """
    if prune is None:
        return command_line(run.folder, "prune", "--ratio", "0.95", arch=arch)
    if finetune is None:
        return finetune_line(run, arch)
    exported = run.latest(ExportRecord)
    made = finetune.outputs.get("finetuned")
    if exported is None or exported.inputs.model is None or made is None or exported.inputs.model.sha256 != made.sha256:
        return command_line(run.folder, "export", "--format", "onnx", "--out", "small.onnx", arch=arch)
    out = next(iter(exported.outputs.values())).path
    trust = ["--unsafe-pickle"] if exported.metrics.format == "pt2" else []
    # `cfp predict` reads no run directory.
    return command_line(DEFAULT_RUN, "predict", out, "IMAGES", *trust)


def finetune_line(run: Run, arch: str | None) -> str:
    """Return the command line of the fine-tuning, with the scored model as its teacher."""
    teacher = run.require(ScoreRecord).inputs.model
    assert teacher is not None, "every score record has a model"
    return command_line(run.folder, "finetune", "--teachers", teacher.path, arch=arch or teacher.arch)

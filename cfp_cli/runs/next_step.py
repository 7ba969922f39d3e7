"""The command that continues a run, by what its records say is done."""

from __future__ import annotations

from pathlib import Path

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
    exported = _export_of(run, finetune)
    if exported is None:
        return command_line(run.folder, "export", "--format", "onnx", "--out", "small.onnx", arch=arch)
    out = next(iter(exported.outputs.values())).path
    trust = ["--unsafe-pickle"] if exported.metrics.format == "pt2" else []
    # `cfp predict` reads no run directory.
    return command_line(DEFAULT_RUN, "predict", out, "IMAGES", *trust)


def next_without_labels(run: Run, arch: str | None) -> str | None:
    """Return the command line that continues a scored run without labels; None after its export."""
    prune, finetune = run.latest(PruneRecord), run.latest(FinetuneRecord)
    if finetune is not None and _export_of(run, finetune) is not None:
        return None
    return next_step(run, prune, finetune, arch)


def has_labels(run: Run) -> bool:
    """Return whether `cfp score` read the labels of the images of a scored run."""
    data = run.require(ScoreRecord).inputs.data
    return data is None or data.labels


def bench_line(run: Run, out: Path, arch: str | None) -> str | None:
    """Return the command line that compares the speed of the scored model with that of a model of the run.

    Args:
        run: the run.
        out: the file that the model was exported to.
        arch: Python code of the user that builds the networks; None without such code.

    Returns:
        None where the run has no such export, or where the scored model itself was exported.
    """
    scored, exported = run.latest(ScoreRecord), run.latest(ExportRecord)
    if scored is None or exported is None or out.resolve() not in [each.path for each in exported.outputs.values()]:
        return None
    original, small = scored.inputs.model, exported.inputs.model
    if original is None or small is None or small.sha256 == original.sha256:
        return None
    words = ["--input-size", "x".join(map(str, original.input_size))] if original.input_size is not None else []
    for name, values in (("--mean", original.mean), ("--std", original.std)):
        words += [name, ",".join(f"{value:g}" for value in values)] if values is not None else []
    words += ["--weights", original.weights] if original.weights is not None else []
    return command_line(run.folder, "bench", original.path, small.path, *words, arch=arch or original.arch)


def _export_of(run: Run, finetune: FinetuneRecord) -> ExportRecord | None:
    """Return the last export of a run, if it exported the network of this fine-tuning."""
    exported, made = run.latest(ExportRecord), finetune.outputs.get("finetuned")
    if exported is None or exported.inputs.model is None or made is None or exported.inputs.model.sha256 != made.sha256:
        return None
    return exported


def finetune_line(run: Run, arch: str | None) -> str:
    """Return the command line of the fine-tuning, with the scored model as its teacher."""
    teacher = run.require(ScoreRecord).inputs.model
    assert teacher is not None, "every score record has a model"
    return command_line(run.folder, "finetune", "--teachers", teacher.path, arch=arch or teacher.arch)

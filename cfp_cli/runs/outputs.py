"""The checkpoints that the commands of a run wrote. Their hashes are checked before they are used again."""

from __future__ import annotations

from cfp_cli.foundation.errors import RunError
from cfp_cli.foundation.files import sha256
from cfp_cli.runs.directory import Run
from cfp_cli.runs.inputs import ModelInput
from cfp_cli.runs.records import FinetuneRecord, PruneRecord, Record


def pruned_model(run: Run) -> ModelInput:
    """Return the checkpoint that the newest `cfp prune` wrote.

    Raises:
        RunError: the run is not pruned, or the file is missing or has changed since.
    """
    return _checkpoint(run.require(PruneRecord), "pruned")


def finetuned_model(run: Run) -> ModelInput:
    """Return the checkpoint that the newest `cfp finetune` wrote.

    Raises:
        RunError: the run is not fine-tuned, or the file is missing or has changed since.
    """
    return _checkpoint(run.require(FinetuneRecord), "finetuned")


def is_file_of(run: Run, digest: str) -> bool:
    """Whether a command of the run read or wrote a file with this SHA-256."""
    return any(digest in record.hashes for record in run.records)


def _checkpoint(record: Record, name: str) -> ModelInput:
    again = f"run `cfp {record.command}` again, or name a model"
    file = record.outputs[name]
    if not file.path.is_file():
        raise RunError(f"{file.path} is missing; {again}")
    digest = sha256(file.path)
    if digest != file.sha256:
        raise RunError(
            f"{file.path} ({digest[:12]}) is not what `cfp {record.command}` wrote ({file.sha256[:12]}); {again}"
        )
    return ModelInput(file.path)

"""The files that the commands of a run wrote. Their hashes are checked before they are used again."""

from __future__ import annotations

from pathlib import Path

from cfp_cli.foundation.errors import RunError
from cfp_cli.foundation.files import sha256
from cfp_cli.runs.directory import Run
from cfp_cli.runs.inputs import NO_PERMISSION, ModelInput, Permission
from cfp_cli.runs.records import FinetuneRecord, PruneRecord, Record, ScoreRecord


def pruned_model(run: Run, permission: Permission = NO_PERMISSION) -> ModelInput:
    """Return the checkpoint that the newest `cfp prune` wrote.

    Raises:
        RunError: the run is not pruned, or the file is missing or has changed since.
    """
    return _checkpoint(run, run.require(PruneRecord), "pruned", permission)


def finetuned_model(run: Run, permission: Permission = NO_PERMISSION) -> ModelInput:
    """Return the checkpoint that the newest `cfp finetune` wrote.

    Raises:
        RunError: the run is not fine-tuned, or the file is missing or has changed since.
    """
    return _checkpoint(run, run.require(FinetuneRecord), "finetuned", permission)


def newest_model(run: Run, permission: Permission = NO_PERMISSION) -> ModelInput:
    """Return the checkpoint of the newest `cfp prune` or `cfp finetune`.

    Raises:
        RunError: the run contains neither, the file is missing or has changed since, or the run was scored with another
            model since.
    """
    newest = next((each for each in reversed(run.records) if isinstance(each, PruneRecord | FinetuneRecord)), None)
    if newest is None:
        newest = run.require(FinetuneRecord)
    name = "pruned" if isinstance(newest, PruneRecord) else "finetuned"
    checkpoint = _checkpoint(run, newest, name, permission)
    scored = run.latest(ScoreRecord)
    if scored is not None and scored.inputs.model is not None and _position(run, scored) > _position(run, newest):
        model = scored.inputs.model
        if model.sha256 not in _ancestors(run, newest):
            raise RunError(
                f"{checkpoint.path} is stale: it was not made from {model.path} ({model.sha256[:12]}), "
                f"with which {run.folder} was scored later; run `cfp prune` again, or pass a model"
            )
    return checkpoint


def is_file_of(run: Run, digest: str) -> bool:
    """Whether a command of the run read or wrote a file with this SHA-256."""
    return any(digest in record.hashes for record in run.records)


def _position(run: Run, record: Record) -> int:
    return next(index for index, each in enumerate(run.records) if each is record)


def _ancestors(run: Run, record: Record) -> set[str]:
    """Return the hashes of a checkpoint, of the model it was made from, of the model of that one, and so on."""
    hashes = {file.sha256 for file in record.outputs.values()}
    for each in reversed(run.records[: _position(run, record) + 1]):
        model = each.inputs.model
        if model is not None and hashes & {file.sha256 for file in each.outputs.values()}:
            hashes.add(model.sha256)
    return hashes


def _checkpoint(run: Run, record: Record, name: str, permission: Permission) -> ModelInput:
    return ModelInput(recorded_output(run, record, name, "or pass a model"), permission.arch)


def recorded_output(run: Run, record: Record, name: str, otherwise: str = "or use another --run") -> Path:
    """Return a file that a command wrote, if it is still what the command wrote.

    It is looked for in the run directory first, because a run directory may be moved or copied.

    Args:
        run: the run directory.
        record: the record of the command.
        name: name of the file in `record.outputs`.
        otherwise: what else the user can do if the file is missing or has changed, for the message.

    Raises:
        RunError: the file is missing or has changed since.
    """
    again = f"run `cfp {record.command}` again, {otherwise}"
    written = record.outputs.get(name)
    if written is None:
        raise RunError(f"{run.folder / 'run.json'} does not name the {name} that `cfp {record.command}` wrote; {again}")
    candidates = ((run.folder / written.path.name).resolve(), written.path)
    paths = [path for path in candidates if path.is_file()]
    if not paths:
        raise RunError(f"{written.path} is missing; {again}")
    hashes = {path: sha256(path) for path in paths}
    for path, digest in hashes.items():
        if digest == written.sha256:
            return path
    found, expected = hashes[paths[0]][:12], written.sha256[:12]
    raise RunError(f"{paths[0]} ({found}) is not what `cfp {record.command}` wrote ({expected}); {again}")

"""What the steps of a run wrote, checked by hash before it is used again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cfp_cli.foundation.errors import RunError
from cfp_cli.foundation.files import sha256
from cfp_cli.runs.directory import Run
from cfp_cli.runs.inputs import ModelInput

_CHECKPOINTS = {"prune": "pruned", "finetune": "finetuned"}


def written(run: Run, command: str) -> ModelInput:
    """The checkpoint that the newest `prune` or `finetune` step wrote.

    Raises:
        RunError: the run has no such step, or the file is gone or has changed since.
    """
    outputs = run.require(command)["outputs"]
    what = _CHECKPOINTS[command]
    path, recorded = Path(outputs[what]), outputs[f"{what}_sha256"]
    if not path.is_file():
        raise RunError(f"{path} is gone; run `cfp {command}` again or name a model")
    digest = sha256(path)
    if digest != recorded:
        raise RunError(
            f"{path} ({digest[:12]}) is not what `cfp {command}` wrote ({recorded[:12]}); "
            f"run `cfp {command}` again or name the model"
        )
    return ModelInput(path)


def belongs(run: Run, digest: str) -> bool:
    """Whether a file of this SHA-256 went into or came out of a step of the run."""
    return any(digest in _digests(step) for step in run.steps)


def _digests(step: dict[str, Any]) -> set[str]:
    inputs = {entry["sha256"] for entry in step["inputs"].values()}
    return inputs | {value for name, value in step["outputs"].items() if name.endswith("_sha256")}

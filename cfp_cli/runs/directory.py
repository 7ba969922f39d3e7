"""The run directory: what a run was made of, so that an argument left out comes from there.

`RUN/run.json` holds the model and the data that the run was scored with and one record for each step: arguments, seed,
versions, input hashes, seconds, metrics.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cfp_cli.foundation.errors import RunError
from cfp_cli.foundation.files import write_json
from cfp_cli.foundation.versions import versions

FORMAT = "cfp-run/1"


@dataclass
class Run:
    """A run directory and what its `run.json` remembers."""

    folder: Path
    steps: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Open a run directory, which need not exist yet.

        Raises:
            RunError: its `run.json` cannot be read.
        """
        path = folder / "run.json"
        if not path.exists():
            return cls(folder)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise RunError(f"{path} has format {content['format']}, this version reads {FORMAT}; use another --run")
            return cls(folder, list(content["steps"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} cannot be read ({error}); use another --run or delete it") from error

    @property
    def scores(self) -> Path:
        """The score file."""
        return self.folder / "scores.safetensors"

    @property
    def pruned(self) -> Path:
        """The pruned checkpoint."""
        return self.folder / "pruned.pt"

    @property
    def plan(self) -> Path:
        """The plan that made the pruned checkpoint."""
        return self.folder / "plan.json"

    @property
    def finetuned(self) -> Path:
        """The fine-tuned checkpoint, best on validation."""
        return self.folder / "finetuned.pt"

    @property
    def last(self) -> Path:
        """The training state after the newest finished epoch."""
        return self.folder / "last.pt"

    def latest(self, command: str) -> dict[str, Any] | None:
        """The newest record of a step, or None."""
        return next((step for step in reversed(self.steps) if step["command"] == command), None)

    def require(self, command: str) -> dict[str, Any]:
        """The newest record of a step.

        Raises:
            RunError: the run has no such step.
        """
        step = self.latest(command)
        if step is None:
            raise RunError(f"{self.folder} has no {command} step yet; run `cfp {command}` first or pass --run")
        return step

    def require_same(self, what: str, given: Path, digest: str, command: str) -> None:
        """Refuse an input that is not the one an earlier step recorded.

        Raises:
            RunError: its hash differs; the message names both.
        """
        recorded = self.require(command)["inputs"][what]
        if recorded["sha256"] != digest:
            raise RunError(
                f"{self.folder} holds a {command} step of {what} {recorded['path']} ({recorded['sha256'][:12]}), "
                f"not of {given} ({digest[:12]}); run `cfp {command}` again or use another --run"
            )

    def record(
        self,
        command: str,
        *,
        arguments: dict[str, Any],
        seed: int,
        inputs: dict[str, dict[str, str]],
        seconds: float,
        metrics: dict[str, Any],
        outputs: dict[str, str] | None = None,
    ) -> None:
        """Add a finished step to `run.json`, to those that other commands have added meanwhile.

        Raises:
            RunError: it can no longer be read.
        """
        self.steps = Run.open(self.folder).steps
        self.steps.append(
            {
                "command": command,
                "line": [Path(sys.argv[0]).name, *sys.argv[1:]],
                "arguments": arguments,
                "seed": seed,
                "inputs": inputs,
                "outputs": outputs or {},
                "seconds": round(seconds, 3),
                "metrics": metrics,
                "versions": versions(),
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )
        write_json(self.folder / "run.json", {"format": FORMAT, "steps": self.steps})

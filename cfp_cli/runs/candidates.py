"""The candidates that `cfp shrink` measured, in `RUN/shrink.json`: a repeated command measures none of them again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cfp_cli.foundation.content_hash import read_hashed_json, write_hashed_json
from cfp_cli.foundation.errors import RunError
from cfp_cli.foundation.files import sha256
from cfp_cli.foundation.typed_json import quoted, read, to_json
from cfp_cli.measuring.compared import Compared
from cfp_cli.runs.records import OutputFile

FORMAT = "cfp-shrink/2"
ADVICE = "delete the file to measure all candidates again"


@dataclass(frozen=True)
class Candidate:
    """A measured network.

    Attributes:
        key: hash of everything that the network depends on, except its compression.
        compression: target of the original divided by that which was asked for.
        trained: whether it was fine-tuned; otherwise it was refitted only.
        params: number of parameters.
        macs: multiply-adds of one image.
        compared: the network beside the original on the validation images.
        seconds: how long the prune or the training, and the evaluation, took.
        files: what was written: `pruned` and `plan`, or `finetuned` and `history`.
    """

    key: str
    compression: float
    trained: bool
    params: int
    macs: int
    compared: Compared
    seconds: float
    files: Mapping[str, OutputFile]

    @property
    def checkpoint(self) -> str:
        """The name of the checkpoint in `files`."""
        return "finetuned" if self.trained else "pruned"


@dataclass(frozen=True)
class _Content:
    format: str
    candidates: tuple[Candidate, ...]


class Candidates:
    """The measured candidates of a run directory.

    Args:
        folder: the run directory; its file need not exist yet.

    Raises:
        RunError: the file cannot be read, does not match its hash, or has a wrong field.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "shrink.json"
        self._all: tuple[Candidate, ...] = ()
        if self._file.exists():
            content = read_hashed_json(self._file, RunError, ADVICE)
            # Another format has other fields.
            if isinstance(content, dict) and content.get("format") != FORMAT:
                other = quoted(content.get("format"))
                raise RunError(f"{self._file} has format {other}, this version reads {FORMAT}; {ADVICE}")
            self._all = read(_Content, content, self._file, "", RunError, ADVICE).candidates

    @property
    def all(self) -> tuple[Candidate, ...]:
        """The candidates, in the order of their measurement."""
        return self._all

    def find(self, key: str, compression: float, trained: bool) -> Candidate | None:
        """Return a candidate whose files are still those that were written; None without one."""
        for each in reversed(self._all):
            if (each.key, each.compression, each.trained) == (key, compression, trained) and self._intact(each):
                return each
        return None

    def add(self, candidate: Candidate) -> None:
        """Store a candidate at once, in place of an earlier measurement of the same network.

        Raises:
            StorageError: the file cannot be written.
        """
        same = (candidate.key, candidate.compression, candidate.trained)
        others = (each for each in self._all if (each.key, each.compression, each.trained) != same)
        self._all = (*others, candidate)
        write_hashed_json(self._file, to_json(_Content(FORMAT, self._all)))

    def path(self, candidate: Candidate, name: str) -> Path:
        """Return a file of a candidate. The run directory may have been moved since it was written."""
        written = candidate.files[name].path
        moved = self.folder / written.parent.parent.name / written.parent.name / written.name
        return moved if moved.is_file() else written

    def _intact(self, candidate: Candidate) -> bool:
        if candidate.checkpoint not in candidate.files:
            return False
        paths = {name: self.path(candidate, name) for name in candidate.files}
        return all(path.is_file() and sha256(path) == candidate.files[name].sha256 for name, path in paths.items())

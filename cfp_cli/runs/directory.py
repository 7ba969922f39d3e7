"""The run directory. A command that is not given a model or data takes them from here.

`RUN/run.json` contains one record for each finished command, see `cfp_cli.runs.records`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from cfp_cli.execution import distributed
from cfp_cli.foundation.errors import RunError
from cfp_cli.foundation.files import remove_leftovers, require_writable
from cfp_cli.foundation.locks import Holder, lock_file
from cfp_cli.runs.records import Record, ScoreRecord, read_records, write_records

R = TypeVar("R", bound=Record)


@dataclass
class Run:
    """A run directory and the records of its `run.json`, oldest first."""

    folder: Path
    records: list[Record] = field(default_factory=list)

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Open a run directory, which need not exist yet.

        Raises:
            RunError: its `run.json` cannot be read.
        """
        path = folder / "run.json"
        return cls(folder, read_records(path)) if path.exists() else cls(folder)

    @classmethod
    @contextmanager
    def exclusive(cls, folder: Path) -> Iterator[Run]:
        """Open a run directory for a command that writes to it, and keep other such commands out.

        The kernel ends this when the process dies. Of several processes that torchrun started, the first does it for
        all. Temporary files that killed commands left are deleted.

        Raises:
            RunError: another command writes to the run, or `run.json` cannot be read.
            StorageError: nothing can be written to the folder.
        """
        if distributed.rank() != 0:
            yield cls.open(folder)
            return
        with lock_folder(folder):
            remove_leftovers(folder)
            remove_leftovers(folder / "cache")
            yield cls.open(folder)

    def reload(self) -> None:
        """Read the records again, which other processes may have added.

        Raises:
            RunError: `run.json` cannot be read.
        """
        self.records = Run.open(self.folder).records

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
        """The plan of the pruned checkpoint."""
        return self.folder / "plan.json"

    @property
    def finetuned(self) -> Path:
        """The fine-tuned checkpoint: the best epoch on the validation split."""
        return self.folder / "finetuned.pt"

    @property
    def last(self) -> Path:
        """The training state after the last finished epoch."""
        return self.folder / "last.pt"

    def latest(self, kind: type[R]) -> R | None:
        """Return the newest record of a command, such as `latest(PruneRecord)`; None without one."""
        return next((record for record in reversed(self.records) if isinstance(record, kind)), None)

    def require(self, kind: type[R]) -> R:
        """Return the newest record of a command.

        Raises:
            RunError: the run has no record of the command.
        """
        record = self.latest(kind)
        if record is None:
            raise RunError(
                f"{self.folder} has no {kind.command} record yet; run `cfp {kind.command}` first, or pass --run"
            )
        return record

    def require_scored(self, what: Literal["model", "data"], given: Path, digest: str) -> None:
        """Check that a model or data set is the one that `cfp score` read.

        Args:
            what: which input of `cfp score` to compare with.
            given: path of the model or the data, for the message.
            digest: hash of the model or the data.

        Raises:
            RunError: the hashes differ; the message names both inputs.
        """
        inputs = self.require(ScoreRecord).inputs
        scored = inputs.model if what == "model" else inputs.data
        if scored is None or scored.sha256 != digest:
            before = f"{scored.path} ({scored.sha256[:12]})" if scored else f"no {what}"
            raise RunError(
                f"{self.folder} was scored with {what} {before}, not with {given} ({digest[:12]}); "
                "run `cfp score` again, or use another --run"
            )

    def add(self, record: Record) -> None:
        """Append a record to `run.json`, after the records that other commands have added since it was read.

        Raises:
            RunError: the file can no longer be read.
            StorageError: the file cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        # Commands that only read the run, such as `cfp bench`, add a record while another command writes to the run.
        with lock_file(self.folder / ".records.lock", _in_use(self.folder), patience=60.0):
            self.records = [*Run.open(self.folder).records, record]
            write_records(self.folder / "run.json", self.records)


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Make a folder and keep other commands that write to it out; a folder that is still empty is deleted at the end.

    Raises:
        RunError: another command writes to the folder.
        StorageError: nothing can be written to it.
    """
    new = not folder.exists()
    require_writable(folder)
    try:
        with lock_file(folder / ".lock", _in_use(folder)):
            yield
    finally:
        if new:
            with suppress(OSError):
                folder.rmdir()


def lock_output(path: Path) -> AbstractContextManager[None]:
    """Keep other commands that write the file `path` out; of several processes the first does it for all.

    Raises:
        RunError: another command writes the file.
        StorageError: nothing can be written to its folder.
    """
    if distributed.rank() != 0:
        return nullcontext()
    require_writable(path.parent)
    return lock_file(path.with_name(f".{path.name}.lock"), _in_use(path))


def _in_use(path: Path) -> Callable[[Holder], RunError]:
    return lambda holder: RunError(f"{path} is in use by {holder}; wait until that command ends, or use another path")

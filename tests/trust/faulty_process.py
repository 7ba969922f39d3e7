"""A child process that runs a cfp command, with a fault at one of its operations on the disk."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from forked import fork, import_all

import cfp_cli.data.arrange
from cfp_cli.foundation import files
from cfp_cli.main import main

Fault = Callable[[], None]
# Each copy of the folder has a temporary folder of its own. Its name is hidden, so that it counts as no result.
TEMPORARY = ".temporary"


@dataclass
class Outcome:
    """How a child ended: exit code or minus the signal, what it printed, and how many operations it counted."""

    code: int
    err: str
    operations: int


class _Operations:
    """Counts the operations on the disk, and strikes at one of them."""

    def __init__(self, at: int, fault: Fault | None, counter: int) -> None:
        self.remaining, self.fault, self.counter = at, fault, counter

    def next(self) -> None:
        os.write(self.counter, b".")
        self.remaining -= 1
        if self.remaining == 0 and self.fault is not None:
            self.fault()


class _FaultyModule(ModuleType):
    """A module of the standard library as one module of cfp sees it; subclasses replace some functions."""

    def __init__(self, original: ModuleType, operations: _Operations) -> None:
        super().__init__(original.__name__)
        self.original, self.operations = original, operations

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)


class _FaultyOs(_FaultyModule):
    """The module `os` as `cfp_cli.foundation.files` sees it, which writes all files of a run."""

    def write(self, descriptor: int, data: Any) -> int:
        # The first half of the bytes is on the disk when the fault strikes.
        half = os.write(descriptor, data[: len(data) // 2]) if len(data) > 1 else 0
        self.operations.next()
        return half + os.write(descriptor, data[half:])

    def fsync(self, descriptor: int) -> None:
        self.operations.next()
        os.fsync(descriptor)

    def replace(self, source: Any, target: Any) -> None:
        self.operations.next()
        os.replace(source, target)  # noqa: PTH105
        self.operations.next()


class _FaultyShutil(_FaultyModule):
    """The module `shutil` as `cfp_cli.data.arrange` sees it, which copies images."""

    def copyfile(self, source: Path, target: Path) -> None:
        content = source.read_bytes()
        with target.open("wb") as file:
            file.write(content[: len(content) // 2])
            file.flush()
            self.operations.next()
            file.write(content[len(content) // 2 :])


def _patch(operations: _Operations) -> None:
    """Put the operations in the way of every write of the process."""
    files.os = _FaultyOs(os, operations)  # type: ignore[attr-defined]
    cfp_cli.data.arrange.shutil = _FaultyShutil(cfp_cli.data.arrange.shutil, operations)  # type: ignore[attr-defined]
    write_bytes, rename = Path.write_bytes, Path.rename

    def written(path: Path, content: bytes) -> int:
        write_bytes(path, content[: len(content) // 2])
        operations.next()
        return write_bytes(path, content)

    def renamed(path: Path, target: Path) -> Path:
        operations.next()
        new = rename(path, target)
        operations.next()
        return new

    Path.write_bytes, Path.rename = written, renamed  # type: ignore[method-assign, assignment]


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fill() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def start(folder: Path, line: list[str], at: int = 0, fault: Fault | None = None, largest: int | None = None) -> int:
    """Fork a child that runs a command in a folder; return its process number.

    Args:
        folder: the working folder of the child.
        line: the arguments of `cfp`.
        at: the operation at which the fault strikes, from 1.
        fault: called there.
        largest: no file of the child can have more bytes, whatever code writes it.
    """

    def run() -> None:
        os.chdir(folder)
        log = os.open(f"{os.getpid()}.err", os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        (folder / TEMPORARY).mkdir(exist_ok=True)
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder / TEMPORARY)
        _patch(_Operations(at, fault, os.open(f"{os.getpid()}.count", os.O_WRONLY | os.O_CREAT)))
        if largest is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
        sys.argv = ["cfp", *line]
        main()

    def after(code: int) -> int:
        sys.stderr.flush()
        if largest is None:
            Path(f"{os.getpid()}.modules").write_text("\n".join(sys.modules))
        return code

    return fork(run, after)


def finish(folder: Path, process: int) -> Outcome:
    """Wait for a child and collect what it left."""
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    err, count = folder / f"{process}.err", folder / f"{process}.count"
    outcome = Outcome(code, err.read_text(errors="replace"), count.stat().st_size if count.exists() else 0)
    modules = folder / f"{process}.modules"
    if modules.exists():
        import_all(modules.read_text().split())
    for path in (err, count, modules):
        path.unlink(missing_ok=True)
    return outcome

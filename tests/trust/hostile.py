"""Hostile environments: what is wrong with the process, the system or the folder in which a command runs."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Environment:
    """One environment.

    Attributes:
        name: for reports, and for `--only`.
        variables: environment variables; None deletes one.
        setup: called in the process of the command, before `cfp` starts.
        disk: how the folder of the command is mounted or owned: `full N` (a disk of N KiB beyond its content),
            `read-only`, `forbidden` (another user's), or `` for an ordinary folder.
        fresh: starts a new Python. Otherwise the command runs in a fork of a process that has imported torch.
        json: the command also runs with `--json`.
        words: a pattern that the message of a failure must match.
        works: the command must work.
        encoding: of the standard streams.
    """

    name: str
    variables: Mapping[str, str | None] = field(default_factory=dict)
    setup: Callable[[], None] = lambda: None
    disk: str = ""
    fresh: bool = False
    json: bool = False
    words: str = ""
    works: bool = False
    encoding: str = "utf-8"


def all_of(*steps: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        for step in steps:
            step()

    return run


def closed(*numbers: int) -> Callable[[], None]:
    return lambda: [os.close(number) for number in numbers] and None


def replaced(number: int, path: str) -> Callable[[], None]:
    return lambda: os.dup2(os.open(path, os.O_RDWR), number) and None


def without_reader(number: int) -> Callable[[], None]:
    """Make a stream a pipe whose reader has gone away."""

    def run() -> None:
        reader, writer = os.pipe()
        os.dup2(writer, number)
        os.close(writer)
        os.close(reader)

    return run


def limited(name: int, value: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(name, (value, value))


def more_memory(megabytes: int) -> Callable[[], None]:
    """Allow so much address space beyond what the process has now."""

    def run() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + megabytes * MEGABYTE
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    return run


def deleted_folder() -> None:
    """Work in a folder that does not exist any more."""
    folder = Path.cwd() / "deleted"
    folder.mkdir()
    os.chdir(folder)
    folder.rmdir()


def streams() -> Iterator[Environment]:
    for json in (False, True):
        name = "json, " * json
        yield Environment(f"{name}stdout closed", setup=closed(1), json=json)
        yield Environment(f"{name}stdout full", setup=replaced(1, "/dev/full"), json=json, words="disk is full")
        yield Environment(f"{name}no reader of stdout", setup=without_reader(1), json=json)
        yield Environment(f"{name}stderr closed", setup=closed(2), json=json)
    yield Environment("stderr full", setup=replaced(2, "/dev/full"), works=True)
    yield Environment("no reader of stderr", setup=without_reader(2))
    yield Environment("stdin closed", setup=closed(0), works=True)
    yield Environment("all streams closed", setup=closed(0, 1, 2))
    yield Environment("ASCII streams", encoding="ascii", works=True)


def terminals() -> Iterator[Environment]:
    for columns in ("0", "1", "-5", "x", "", "99999999999999999999"):
        yield Environment(f"COLUMNS={columns}", {"COLUMNS": columns, "LINES": columns}, works=True)
    yield Environment("TERM unset", {"TERM": None}, works=True)
    yield Environment("TERM and colours", {"TERM": "x", "FORCE_COLOR": "x", "COLORTERM": "x"}, works=True)


def folders() -> Iterator[Environment]:
    yield Environment("HOME unset", {"HOME": None}, works=True)
    yield Environment("HOME missing", {"HOME": "/nonexistent", "XDG_CACHE_HOME": "/nonexistent/x"}, works=True)
    yield Environment("TMPDIR missing", {"TMPDIR": "/nonexistent"})
    yield Environment("folder deleted", setup=deleted_folder)
    yield Environment("another user's folder", disk="forbidden", words="cannot|permission|in use|is in")
    yield Environment("read-only disk", disk="read-only", words="read-only|cannot")


def disks(sizes: tuple[int, ...]) -> Iterator[Environment]:
    for size in sizes:
        yield Environment(f"disk with {size} KiB", disk=f"full {size}", words="disk is full|cannot write")
    for size in sizes:
        # The messages go to a file, too.
        limit = limited(resource.RLIMIT_FSIZE, max(size, 2) << 10)
        yield Environment(f"files of {size} KiB", setup=limit, words="ulimit -f|cannot|would be larger")


def memory(sizes: tuple[int, ...]) -> Iterator[Environment]:
    for size in sizes:
        yield Environment(f"memory + {size} MiB", setup=more_memory(size), words="memory")


def fresh_memory(sizes: tuple[int, ...]) -> Iterator[Environment]:
    for size in sizes:
        limit = limited(resource.RLIMIT_AS, size * MEGABYTE)
        yield Environment(f"memory of {size} MiB", setup=limit, fresh=True, words="memory")


def handles() -> Iterator[Environment]:
    for count in (4, 5, 8, 16, 32):
        limit = limited(resource.RLIMIT_NOFILE, count)
        yield Environment(f"{count} open files", setup=limit, words="open files|cannot")


def launchers() -> Iterator[Environment]:
    """Variables of torchrun, of processes that do not exist or cannot be reached."""
    good = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    changes: list[dict[str, str | None]] = [
        *({"RANK": value} for value in ("", "x", "-1", "2", "1e9", "٣", None)),
        *({"WORLD_SIZE": value} for value in ("", "x", "0", "-1", "1.5", None)),
        *({"MASTER_PORT": value} for value in ("", "x", "-1", "0", "99999999", None)),
        *({"MASTER_ADDR": value} for value in ("", "no such host", "\udcff", None)),
        *({"LOCAL_RANK": value} for value in ("", "x", "-1")),
        {"MASTER_PORT": "1", "RANK": "1"},
    ]
    for change in changes:
        names = ", ".join(f"{name}={value!a}" for name, value in change.items())
        yield Environment(f"torchrun with {names}", {**good, **change})


def locales() -> Iterator[Environment]:
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": None}
    yield Environment("ASCII locale", plain, fresh=True)
    yield Environment("ASCII locale and streams", {**plain, "PYTHONIOENCODING": "ascii"}, fresh=True)
    yield Environment("ASCII locale, json", {**plain, "PYTHONIOENCODING": "ascii"}, fresh=True, json=True)


def variables() -> Iterator[Environment]:
    for name, value in (
        ("OMP_NUM_THREADS", "x"),
        ("OMP_NUM_THREADS", "-1"),
        ("OMP_NUM_THREADS", "0"),
        ("OMP_NUM_THREADS", "999999999"),
        ("MKL_NUM_THREADS", "x"),
        ("OMP_WAIT_POLICY", "x"),
        ("TORCH_HOME", "/nonexistent"),
        ("TORCH_LOGS", "x"),
        ("TORCH_CPP_LOG_LEVEL", "x"),
        ("TORCH_SHOW_CPP_STACKTRACES", "x"),
        ("PYTORCH_CUDA_ALLOC_CONF", "x"),
        ("CUDA_VISIBLE_DEVICES", "x"),
        ("CFP_RUN", ""),
        ("CFP_RUN", "/dev/null"),
    ):
        yield Environment(f"{name}={value}", {name: value}, fresh=True)


LONG: dict[str, Callable[[], Iterator[Environment]]] = {
    "streams": streams,
    "terminals": terminals,
    "folders": folders,
    "disks": lambda: disks((0, 4, 16, 64, 256, 1024)),
    "memory": lambda: memory((0, 8, 32, 64, 128, 256, 512, 1024)),
    "handles": handles,
    "launchers": launchers,
    "locales": locales,
    "variables": variables,
    "fresh memory": lambda: fresh_memory((100, 200, 400, 600, 800, 1000, 1500, 2000, 3000)),
}

"""Runs programs in forks of a process that has imported torch, so that each need not import it again.

The process that forks computes nothing, as the threads of torch do not survive a fork.

Run as a program, it is that process: `python forked.py MODULE:FUNCTION MODULES...` imports the modules. Then it reads
requests from stdin, one JSON list a line, of a child each: [arguments, variables, file of stdout, file of stderr]. It
forks the children, in which the function runs, and prints their exit codes.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What a child may import and its parent may then import as well: these packages start no threads.
_SHARED = ("torch", "scipy", "PIL", "cfp_cli", "sympy", "onnx", "onnxscript", "onnx_ir", "rich", "jinja2")
# A child that hangs is killed after so many seconds.
_LIMIT_SECONDS = 180


def fork(run: Callable[[], object], after: Callable[[int], int] = lambda code: code) -> int:
    """Fork a child that runs a function; return its process number.

    Args:
        run: called in the child; it may end with SystemExit.
        after: takes the exit code and returns that of the child; called in the child if `run` raises no other error.
    """
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        try:
            run()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        code = after(code)
    except BaseException as error:
        code = 70
        os.write(2, f"Traceback of the harness: {error!r}".encode())
    finally:
        os._exit(code)


def import_all(names: Sequence[str]) -> None:
    """Import what a child has imported, so that later children need not."""
    for name in names:
        if name not in sys.modules and name.split(".")[0] in _SHARED:
            with suppress(Exception):
                importlib.import_module(name)


def flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


@dataclass(frozen=True)
class Done:
    """How a child ended."""

    code: int
    out: str
    err: str


class Forks:
    """A Python that forks children, each of which runs a function; use it as a context manager."""

    def __init__(self, folder: Path, function: str, modules: Sequence[str], paths: Sequence[Path] = ()) -> None:
        """Start it.

        Args:
            folder: for the output of the children.
            function: `module:function`, which reads `sys.argv`.
            modules: what it imports before it forks.
            paths: folders of these modules, beside those of the package.
        """
        self._folder, self._children = folder, 0
        places = [*map(str, paths), str(Path(__file__).resolve().parents[1])]
        self._process = subprocess.Popen(
            [sys.executable, __file__, function, *modules],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(places)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, *_: object) -> None:
        # The end of its input ends it.
        self._process.communicate(timeout=_LIMIT_SECONDS)

    def run(self, arguments: Sequence[object], world: int, variables: Mapping[str, str] | None = None) -> list[Done]:
        """Run processes with the variables that torchrun would set, and wait for them."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world), **(variables or {})}
        common["LOCAL_WORLD_SIZE"] = str(world)
        request, logs = [], []
        for rank in range(world):
            self._children += 1
            logs.append([self._folder / f"{self._children}.{name}" for name in ("out", "err")])
            own = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            request.append([[str(each) for each in arguments], own, *map(str, logs[-1])])
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        codes = json.loads(self._process.stdout.readline())
        return [Done(code, out.read_text(), err.read_text()) for code, (out, err) in zip(codes, logs, strict=True)]


def _child(function: Callable[[], object], request: Sequence[Any]) -> None:
    arguments, variables, out, err = request
    for number, name in ((0, os.devnull), (1, out), (2, err)):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT, 0o666), number)
    signal.alarm(_LIMIT_SECONDS)
    os.environ.update(variables)
    sys.argv = [sys.argv[1], *arguments]
    try:
        function()
    finally:
        flush()


def serve() -> None:
    module, _, name = sys.argv[1].partition(":")
    function = getattr(importlib.import_module(module), name)
    for each in sys.argv[2:]:
        importlib.import_module(each)
    for line in sys.stdin:
        children = [fork(lambda request=request: _child(function, request)) for request in json.loads(line)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        sys.stdout.write(json.dumps(codes) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()

"""Damages and forges the files of networks, training states and scores, and reads each of them.

Run as a program: `python tests/trust/reader.py FOLDER [--files N] [--seed N]`. Prints one JSON object of counts, and a
line for each broken promise on stderr; exits with 1 if there is one. The promise: a reader returns or raises one line
that names the file. It runs no code, and its work is bounded by the size of the file.
"""

from __future__ import annotations

import argparse
import faulthandler
import io
import json
import os
import pickle
import random
import struct
import sys
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import safetensors.torch
import torch
from small_network import ARCH, small_architectures

from cfp_cli.checkpoints.load import load
from cfp_cli.checkpoints.save import save
from cfp_cli.checkpoints.spec import ModelSpec, describe
from cfp_cli.foundation.errors import CfpError
from cfp_cli.models.registry import create
from cfp_cli.scoring.scores import Scores, SetScores, TapScores
from cfp_cli.training.state import read_state, write_state

# Audit events of Python that reading a file must not cause.
FORBIDDEN = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect")
# Programs of pickles, without protocol and STOP. None of them may run or take long.
HOSTILE = (
    b"cposix\nsystem\n(Vtouch executed\ntR",
    b"cbuiltins\nexec\n(Vopen('executed', 'w')\ntR",
    b"cbuiltins\neval\n\x8c\x011\x85R",
    b"\x8c\x05posix\x8c\x06system\x93\x8c\x0etouch executed\x85R",
    b"(cposix\nsystem\nVtouch executed\no",
    b"(Vtouch executed\niposix\nsystem\n",
    b"cpathlib\nPath\n(Vexecuted\ntRN\x86b",
    b"ctorch\nload\n(Vother.pt\ntR",
    b"ctorch.hub\nload\n(Vx\ntR",
    # A tuple that contains another one twice, which does so too: as a key, as an argument, as content.
    b"}" + b")" + b"2\x86" * 60 + b"Ns",
    b"ccollections\nOrderedDict\n(]" + b")" + b"2\x86" * 60 + b"N\x86atR",
    b")" + b"2\x86" * 60,
    b"]" + b"(22l" * 60,
    # Nesting, a list that contains itself, a huge integer, an argument that is copied by each of many calls.
    b"]" * 3000 + b"a" * 2999,
    b"]q\x00h\x00a",
    b"\x8b" + struct.pack("<i", 9000) + b"\x7f" * 9000,
    b"](" + b"N" * 2000 + b"eq\x01" + b"cbuiltins\nset\nh\x01\x85R0" * 2000 + b"N",
    b"(" + b"N" * 5000 + b"tq\x01" + b"}h\x01Ns0" * 4000 + b"N",
)


@dataclass
class Reader:
    """Reads files and counts what happened."""

    root: Path
    counts: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    watching: bool = False

    def __post_init__(self) -> None:
        def audit(event: str, arguments: tuple[Any, ...]) -> None:
            if self.watching and event.startswith(FORBIDDEN):
                self.events.append(f"{event} {arguments!r:.80}")

        sys.addaudithook(audit)

    def check(self, path: Path, what: str) -> None:
        """Read a file as its name says."""
        self.counts["files"] += 1
        self.events.clear()
        self.watching = True
        try:
            with warnings.catch_warnings(record=True) as shown:
                warnings.simplefilter("always")
                READERS[path.name](path)
            self.counts["accepted"] += 1
        except CfpError as error:
            self.counts["refused"] += 1
            if "\n" in str(error) or path.name not in str(error):
                self._break(what, f"says {error}")
        except Exception as error:
            self._break(what, f"raises {type(error).__name__}: {error}")
        self.watching = False
        if shown:
            self._break(what, f"warns {shown[0].message}")
        if self.events or (self.root / "executed").exists():
            self._break(what, f"runs {self.events}")
            (self.root / "executed").unlink(missing_ok=True)

    def _break(self, what: str, problem: str) -> None:
        self.broken.append(f"{what}: {problem}"[:400])
        sys.stderr.write(f"broken: {self.broken[-1]}\n")


def _read_state(path: Path) -> object:
    return read_state(path, {"seed": 0})


READERS: dict[str, Callable[[Path], object]] = {
    "own.pt": load,
    "own.safetensors": load,
    "foreign.pt": lambda path: load(path, ARCH),
    "foreign.safetensors": lambda path: load(path, ARCH),
    "old.pt": lambda path: load(path, ARCH),
    "objects.pt": lambda path: load(path, ARCH),
    "old-objects.pt": lambda path: load(path, ARCH),
    "last.pt": _read_state,
    "scores.safetensors": Scores.load,
}


def write_files(folder: Path) -> dict[str, bytes]:
    """Return a whole file of each kind by name."""
    torch.manual_seed(0)
    network = describe(create(ARCH, 2).eval(), ModelSpec(ARCH, ("a", "b"), input_size=(16, 16)))
    state = network.state_dict()
    for name in ("own.pt", "own.safetensors"):
        save(folder / name, network)
    safetensors.torch.save_file(state, folder / "foreign.safetensors")
    objects = {"args": SimpleNamespace(lr=0.1), "epoch": 3, "state_dict": state}
    for name, content in (("foreign.pt", {"model": state, "epoch": 3}), ("objects.pt", objects)):
        torch.save(content, folder / name)
        old = name.replace("foreign", "old") if name.startswith("foreign") else f"old-{name}"
        torch.save(content, folder / old, _use_new_zipfile_serialization=False)
    write_state(folder / "last.pt", {"seed": 0}, {"model": dict(state), "step": 1, "rows": [{"epoch": 0}]})
    _scores().save(folder / "scores.safetensors")
    return {name: (folder / name).read_bytes() for name in READERS}


def _scores() -> Scores:
    tap = TapScores("t", 2, 2, np.ones((2, 3), np.float32), np.ones(3), _linkage(), 1.0, ())
    return Scores(
        (tap,),
        (SetScores("t", np.ones(3), np.ones(3, np.float32), np.ones(3), 2.0),),
        "norm",
        "explained-variance",
        2,
        (16, 16),
        1.0,
        1.0,
        {"decimals": 4, "seed": 0},
        "x",
        3,
    )


def _linkage() -> Any:
    return np.array([[0.0, 1.0, 1.0, 2.0], [2.0, 3.0, 1.0, 3.0]])


def damage(draw: random.Random, content: bytes) -> bytes:
    """Flip bits, cut, insert, repeat or replace bytes."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 3, 10))):
        if not changed:
            break
        position = draw.randrange(len(changed))
        # The first and last bytes hold what describes the others.
        if draw.random() < 0.5:
            position = draw.choice((position % 2048, max(0, len(changed) - 1 - position % 2048))) % len(changed)
        size = draw.choice((1, 2, 4, 8, 100))
        kind = draw.randrange(6)
        if kind == 0:
            changed[position] ^= 1 << draw.randrange(8)
        elif kind == 1:
            changed[position : position + size] = draw.randbytes(size)
        elif kind == 2:
            del changed[position:]
        elif kind == 3:
            del changed[position : position + size]
        elif kind == 4:
            changed[position:position] = changed[position : position + size]
        else:
            changed[position : position + size] = draw.choice((b"\xff", b"\0", b"\x7f")) * size
    return bytes(changed)


def rearrange(draw: random.Random, content: bytes) -> bytes:
    """Change the members of a zip file: drop, repeat, swap, rename, compress or enlarge one, or change its pickle."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(each.filename, archive.read(each)) for each in archive.infolist()]
    index, kind = draw.randrange(len(members)), draw.randrange(7)
    name, data = members[index]
    compression = zipfile.ZIP_STORED
    if kind == 0:
        del members[index]
    elif kind == 1:
        members.insert(draw.randrange(len(members)), (name, damage(draw, data)))
    elif kind == 2:
        other = draw.randrange(len(members))
        members[index], members[other] = (name, members[other][1]), (members[other][0], data)
    elif kind == 3:
        members[index] = (draw.choice(("x", "../x", "/x", name * 50, "archive/constants.pkl")), data)
    elif kind == 4:
        compression = zipfile.ZIP_DEFLATED
        members[index] = (name, data + bytes(draw.choice((0, 10**6))))
    elif kind == 5:
        members[index] = (name, damage(draw, data))
    else:
        members = [(each, forge(draw, value) if each.endswith("data.pkl") else value) for each, value in members]
    stream = io.BytesIO(b"")
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for each, value in members:
            archive.writestr(each, value)
    return stream.getvalue()


def forge(draw: random.Random, program: bytes) -> bytes:
    """Put a hostile program into a pickle: at its start, where its result is dropped, or as its whole content."""
    hostile = draw.choice(HOSTILE)
    kind = draw.randrange(4)
    if kind == 0:
        return b"\x80\x04" + hostile + b"0" + program[2:]
    if kind == 1:
        return b"\x80\x04" + hostile + b"."
    if kind == 2:
        return b"\x80\x04}\x8c\x05model" + hostile + b"s."
    return damage(draw, program)


def mutated(draw: random.Random, name: str, content: bytes) -> bytes:
    """Return a changed file of a kind."""
    zipped = content[:2] == b"PK"
    if zipped and draw.random() < 0.6:
        return rearrange(draw, content)
    if name.startswith("old") and draw.random() < 0.5:
        # The fourth pickle is the content.
        start = content.index(pickle.dumps(1001, 2)) if pickle.dumps(1001, 2) in content else 0
        return content[: start + 7] + forge(draw, content[start + 7 :])
    return damage(draw, content)


def fuzz(files: int, seed: int, patience: float = 0.0) -> Reader:
    """Write and read changed files in the current folder.

    Args:
        files: number of files.
        seed: of the changes.
        patience: seconds that a file may take before the process ends; 0 is any time.
    """
    reader, whole = Reader(Path.cwd()), write_files(Path.cwd())
    for name in whole:
        reader.check(Path(name), f"whole {name}")
    if reader.counts["accepted"] != len(whole):
        reader.broken.append("a whole file is refused")
    names = list(whole)
    for number in range(files):
        name = names[number % len(names)]
        what = f"{name} {seed} {number}"
        with warnings.catch_warnings():
            # Some of the zip files have a name twice.
            warnings.simplefilter("ignore")
            Path(name).write_bytes(mutated(random.Random(what), name, whole[name]))
        if patience:
            faulthandler.dump_traceback_later(patience, exit=True)
        reader.check(Path(name), what)
        faulthandler.cancel_dump_traceback_later()
    return reader


def run() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patience", type=float, default=120.0, help="seconds that a file may take")
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    os.chdir(options.folder)
    began = time.monotonic()
    reader = fuzz(options.files, options.seed, options.patience)
    report = {**reader.counts, "broken": len(reader.broken), "seconds": round(time.monotonic() - began)}
    sys.stdout.write(json.dumps(report) + "\n")
    sys.exit(bool(reader.broken))


if __name__ == "__main__":
    with small_architectures():
        run()

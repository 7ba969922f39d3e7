"""Kills commands between every two writes, fills the disk at every write, races commands, interrupts from the start.

Run as a program: `python tests/trust/faults.py FOLDER [--commands NAME...] [--races N] [--interrupts N]`. Prints one
JSON object of counts, and a line for each broken promise on stderr; exits with 1 if there is one.

The program imports torch once and forks a child for each command. It computes nothing itself, as the threads of torch
do not survive a fork.
"""

from __future__ import annotations

import argparse
import csv
import errno
import hashlib
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import cfp_cli.commands.bench
import cfp_cli.runs.bench
import cfp_cli.runs.comparison
import cfp_cli.runs.demo
import cfp_cli.runs.evaluate
import cfp_cli.runs.fuse  # noqa: F401
from cfp_cli.foundation import files
from cfp_cli.main import main

TRAINING = ["--epochs", "3", "--batch-size", "8", "--views", "1", "--augment", "none", "--threads", "1"]
# Each command, in the order of the work: arguments, and whether it can go on with --resume.
COMMANDS: dict[str, tuple[list[str], bool]] = {
    "train": (["data", "--arch", "dddn", "--input-size", "32", "--out", "rl.pt", *TRAINING], True),
    "score": (["rl.pt", "data", "--images", "12", "--threads", "1"], False),
    "prune": (["--ratio", "0.5", "--threads", "1"], False),
    "finetune": (["--teachers", "rl.pt", *TRAINING], True),
    "export": (["--format", "pt2", "--out", "small.pt2"], False),
    "bench": (["rl.pt", "--seconds", "0.01", "--no-onnx", "--threads", "1"], False),
    "report": (["--no-bench", "--threads", "1"], False),
    "compare": (
        [
            "data",
            "--teachers",
            "rl.pt",
            "--methods",
            "l1",
            "--ratios",
            "0.5",
            "--seeds",
            "0",
            "--images",
            "12",
            *TRAINING,
        ],
        False,
    ),
    "split": (["data", "split-data"], False),
}
BUG = re.compile(r"this is a bug|Traceback", re.IGNORECASE)


@dataclass
class Outcome:
    """How a child ended: exit code or minus the signal, what it printed, and how many operations it counted."""

    code: int
    err: str
    operations: int


class FaultyOs(ModuleType):
    """The module `os` as `cfp_cli.foundation.files` sees it, with a fault at one of its operations on the disk."""

    def __init__(self, at: int, fault: Callable[[], None] | None, count: Callable[[], None]) -> None:
        super().__init__("os")
        self.left, self.fault, self.count = at, fault, count

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _operation(self) -> None:
        self.count()
        self.left -= 1
        if self.left == 0 and self.fault is not None:
            self.fault()

    def write(self, descriptor: int, data: Any) -> int:
        # The first half of the bytes is on the disk when the fault strikes.
        half = os.write(descriptor, data[: len(data) // 2]) if len(data) > 1 else 0
        self._operation()
        return half + os.write(descriptor, data[half:])

    def fsync(self, descriptor: int) -> None:
        self._operation()
        os.fsync(descriptor)

    def replace(self, source: Any, target: Any) -> None:
        self._operation()
        os.replace(source, target)  # noqa: PTH105
        self._operation()


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fill() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def start(folder: Path, name: str, more: list[str], at: int = 0, fault: Callable[[], None] | None = None) -> int:
    """Fork a child that runs a command in a folder; return its process number."""
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        os.chdir(folder)
        log = os.open(f"{os.getpid()}.err", os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        counter = os.open(f"{os.getpid()}.count", os.O_WRONLY | os.O_CREAT)
        files.os = FaultyOs(at, fault, lambda: os.write(counter, b"."))  # type: ignore[attr-defined]
        line = ["data", "split"] if name == "split" else [name]
        sys.argv = ["cfp", *line, *COMMANDS[name][0], *more]
        main()
    except SystemExit as end:
        code = int(end.code or 0)
        Path(f"{os.getpid()}.modules").write_text("\n".join(sys.modules))
    finally:
        sys.stderr.flush()
        os._exit(code)


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


def import_all(names: list[str]) -> None:
    """Import what a child has imported, so that later children need not."""
    for name in names:
        if name not in sys.modules and name.split(".")[0] in (
            "torch",
            "scipy",
            "PIL",
            "cfp_cli",
            "sympy",
        ):
            with suppress(Exception):
                importlib.import_module(name)


def hashes(folder: Path) -> dict[str, str]:
    """The content of every file that has its final name; records and tables that hold times are compared elsewhere."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def leftovers(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*.tmp")]


def records(folder: Path) -> list[Any]:
    path = folder / "cfp-run" / "run.json"
    return json.loads(path.read_text())["records"] if path.exists() else []


def weights(path: Path) -> Any:
    import torch

    content = torch.load(path, weights_only=True)["state_dict"]
    return {name: value.numpy().tobytes() for name, value in content.items()}


@dataclass
class Harness:
    """Runs the scenarios in copies of a folder and counts what happened."""

    root: Path
    counts: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    made: int = 0

    def expect(self, holds: bool, promise: str) -> None:
        self.counts["checks"] += 1
        if not holds:
            self.broken.append(promise)
            sys.stderr.write(f"broken: {promise}\n")

    def copy(self, folder: Path) -> Path:
        self.made += 1
        target = self.root / f"copy{self.made}"
        shutil.copytree(folder, target, symlinks=True)
        return target

    def run(self, folder: Path, name: str, *more: str, at: int = 0, fault: Callable[[], None] | None = None) -> Outcome:
        outcome = finish(folder, start(folder, name, list(more), at, fault))
        self.counts["commands"] += 1
        if BUG.search(outcome.err):
            self.counts["bugs"] += 1
            self.expect(False, f"{name}: {outcome.err[-300:]}")
        return outcome

    def prepare(self) -> dict[str, Path]:
        """Run all commands once; return the folder as it was before each of them, with files of an earlier round."""
        from cfp_cli.data.synthetic import generate

        folder = self.root / "start"
        folder.mkdir(parents=True)
        if not os.fork():
            generate(folder / "data", per_class=6, test_per_class=2, size=64, imbalance=1.0)
            os._exit(0)
        os.wait()
        before = {}
        for name in COMMANDS:
            before[name] = self.copy(folder)
            done = self.run(folder, name)
            self.expect(done.code == 0, f"{name} fails: {done.err}")
        return before

    def faults(self, name: str, folder: Path) -> None:
        """Kill a command at each of its operations, and fill the disk there."""
        whole = self.copy(folder)
        done = self.run(whole, name)
        old, new = hashes(folder), hashes(whole)
        for at in range(1, done.operations + 1):
            self._killed(name, folder, whole, at, old, new)
            self._full(name, folder, at, old, new)
        shutil.rmtree(whole)

    def _killed(self, name: str, folder: Path, whole: Path, at: int, old: dict[str, str], new: dict[str, str]) -> None:
        cut = self.copy(folder)
        self.expect(self.run(cut, name, at=at, fault=kill).code == -signal.SIGKILL, f"{name} {at}: no kill")
        self.counts["kills"] += 1
        self._whole_files(f"{name} killed at {at}", cut, old, new)
        kept = records(folder)
        self.expect(records(cut)[: len(kept)] == kept, f"{name} killed at {at}: records lost")
        again = self.run(cut, name, *(["--resume"] if COMMANDS[name][1] else []))
        self.expect(again.code == 0, f"{name} killed at {at}, then again: {again.err}")
        self.expect(leftovers(cut) == [], f"{name} killed at {at}: {leftovers(cut)} left")
        for result in ("rl.pt", "cfp-run/pruned.pt", "cfp-run/finetuned.pt"):
            if (whole / result).exists():
                same = (cut / result).exists() and weights(cut / result) == weights(whole / result)
                self.expect(same, f"{name} killed at {at}: {result} differs")
        shutil.rmtree(cut)

    def _full(self, name: str, folder: Path, at: int, old: dict[str, str], new: dict[str, str]) -> None:
        cut = self.copy(folder)
        done = self.run(cut, name, at=at, fault=fill)
        self.counts["full disks"] += 1
        # The folder is flushed after the rename, when the file is complete: an error there changes nothing.
        if done.code != 0:
            last = done.err.strip().splitlines()[-1:]
            self.expect(done.code == 1, f"{name} full at {at}: exit {done.code}")
            names = bool(last) and re.match(r"error: cannot write .+: its disk is full; ", last[0]) is not None
            self.expect(names, f"{name} full at {at}: {last}")
        self._whole_files(f"{name} full at {at}", cut, old, new)
        self.expect(leftovers(cut) == [], f"{name} full at {at}: {leftovers(cut)} left")
        shutil.rmtree(cut)

    def _whole_files(self, what: str, folder: Path, old: dict[str, str], new: dict[str, str]) -> None:
        """Each file is the old one or a complete one. Files with times in them must parse; others are compared."""
        now = hashes(folder)
        for path in old:
            self.expect(path in now or path.endswith("last.pt"), f"{what}: {path} is gone")
        for path, digest in now.items():
            if digest in (old.get(path), new.get(path)):
                continue
            self.expect(parses(folder / path), f"{what}: {path} is not whole")

    def race(self, folder: Path, pair: tuple[str, str], delay: float) -> None:
        """Start two commands in one run; each succeeds or reports who holds the run, and no record is lost."""
        cut = self.copy(folder)
        before = len(records(cut))
        first = start(cut, pair[0], [])
        time.sleep(delay)
        second = start(cut, pair[1], [])
        done = [finish(cut, first), finish(cut, second)]
        self.counts["races"] += 1
        self.counts["commands"] += 2
        for name, outcome in zip(pair, done, strict=True):
            refused = outcome.code == 1 and "is in use by `cfp " in outcome.err
            self.counts["refused in a race"] += refused
            self.expect(outcome.code == 0 or refused, f"race of {pair}: {name}: {outcome.code} {outcome.err[-300:]}")
        # `split` and `train` write no record.
        written = sum(outcome.code == 0 for outcome in done)
        self.expect(len(records(cut)) == before + written, f"race of {pair}: records lost")
        self.expect(leftovers(cut) == [], f"race of {pair}: {leftovers(cut)} left")
        shutil.rmtree(cut)

    def interrupt(self, folder: Path, name: str, seconds: float, number: signal.Signals, times: int) -> None:
        """Send a signal so many seconds after the start, again and again, to a process of its own."""
        line = [sys.executable, "-m", "cfp_cli", name, *COMMANDS[name][0]]
        process = subprocess.Popen(line, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(seconds)
        for _ in range(times):
            process.send_signal(number)
            time.sleep(0.005)
        _, err = process.communicate()
        self.counts["interruptions"] += 1
        lines = [line for line in err.splitlines() if line.startswith("error: ")]
        if process.returncode == 130:
            self.counts["ended with 130"] += 1
            self.expect(len(lines) == 1 and not BUG.search(err), f"{name} {number.name} at {seconds:.2f} s: {err}")
        elif process.returncode == 0:
            self.counts["ended before the signal"] += 1
        else:
            # Python itself was starting: none of our code has run.
            self.counts["ended while Python started"] += 1
            self.expect("cfp_cli/main.py" not in err, f"{name} {number.name} at {seconds:.2f} s: {err}")


def parses(path: Path) -> bool:
    """Whether a file of a known kind can be read to its end."""
    import safetensors
    import torch

    try:
        if path.suffix == ".pt":
            torch.load(path, weights_only=True)
        elif path.suffix == ".safetensors":
            with safetensors.safe_open(path, framework="numpy") as file:
                for name in file.keys():  # noqa: SIM118
                    file.get_tensor(name)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".html":
            return path.read_text().rstrip().endswith("</html>")
        elif path.suffix == ".csv":
            return len({len(row) for row in csv.reader(path.read_text().splitlines())}) <= 1
    except Exception:
        return False
    return True


PAIRS = (
    ("finetune", "finetune"),
    ("prune", "finetune"),
    ("score", "prune"),
    ("bench", "bench"),
    ("bench", "finetune"),
    ("export", "report"),
    ("score", "score"),
    ("prune", "prune"),
    ("bench", "report"),
)


def run() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--commands", nargs="*", default=list(COMMANDS))
    parser.add_argument("--races", type=int, default=50)
    parser.add_argument("--interrupts", type=int, default=60)
    options = parser.parse_args()
    # A library that is idle must not spin: children share the cores.
    os.environ["OMP_NUM_THREADS"] = "1"
    harness, began = Harness(options.folder.resolve()), time.monotonic()
    before = harness.prepare()
    for name in options.commands:
        harness.faults(name, before[name])
        sys.stderr.write(f"{name}: {dict(harness.counts)}\n")
    done = harness.root / "start"
    sys.stderr.flush()
    for number in range(options.races):
        harness.race(done, PAIRS[number % len(PAIRS)], 0.05 * (number // len(PAIRS)))
    sys.stderr.write(f"races: {dict(harness.counts)}\n")
    for number in range(options.interrupts):
        harness.interrupt(done, "finetune", 0.05 * number, (signal.SIGINT, signal.SIGTERM)[number % 2], 1 + number % 3)
    report = {**harness.counts, "broken": len(harness.broken), "seconds": round(time.monotonic() - began)}
    sys.stdout.write(json.dumps(report) + "\n")
    sys.exit(bool(harness.broken))


if __name__ == "__main__":
    run()

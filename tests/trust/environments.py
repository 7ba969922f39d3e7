"""Runs every command in hostile environments: broken streams, little memory, full disks, bad variables, signals.

Run as a program: `python tests/trust/environments.py FOLDER [--kinds NAME...] [--commands NAME...]`. Prints one JSON
object of counts, and a line for each broken promise on stderr; exits with 1 if there is one. The promise: the command
works, or it ends with an exit code of its own and one line, and all earlier files are whole.

The program imports torch once and forks a child for each command. It computes nothing itself, as the threads of torch
do not survive a fork. Environments that must be there when Python starts get a new process.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from faults import BUG, is_whole, leftovers
from forked import fork, import_all
from hostile import LONG, Environment

import cfp_cli.runs.demo as demo
from cfp_cli.execution import distributed
from cfp_cli.main import main

SHORT = ["--epochs", "1", "--batch-size", "8", "--views", "1", "--augment", "none", "--threads", "1"]
RATIO = ["--ratios", "0.5", "--seeds", "0"]
LIMIT_SECONDS = 120.0
NOBODY = 65534
# Each command, in the order of the work. `MÄNGEL` is not ASCII, as are the names of its classes.
COMMANDS: dict[str, list[str]] = {
    "train": ["train", "MÄNGEL", "--arch", "dddn", "--input-size", "32", "--out", "rl.pt", *SHORT],
    "score": ["score", "rl.pt", "MÄNGEL", "--images", "12", "--threads", "1"],
    "prune": ["prune", "--ratio", "0.5", "--threads", "1"],
    "finetune": ["finetune", "--teachers", "rl.pt", *SHORT],
    "eval": ["eval", "rl.pt", "MÄNGEL", "--threads", "1"],
    "predict": ["predict", "rl.pt", "MÄNGEL", "--csv", "predicted.csv", "--threads", "1"],
    "bench": ["bench", "rl.pt", "--seconds", "0.01", "--no-onnx", "--threads", "1"],
    "compare": ["compare", "MÄNGEL", "--teachers", "rl.pt", "--methods", "l1", *RATIO, "--images", "12", *SHORT],
    "inspect": ["inspect", "rl.pt"],
    "export": ["export", "--format", "pt2", "--out", "small.pt2"],
    "report": ["report", "--no-bench", "--threads", "1"],
    "fuse": ["fuse", "repvgg.pt", "--out", "fused.pt"],
    "split": ["data", "split", "MÄNGEL", "split-data"],
    "completion": ["completion", "bash"],
    "help": ["train", "--help"],
    "version": ["--version"],
    "demo": ["demo", "--run", "demo-run", "--threads", "1"],
}
# The command whose files a command reads, beside those of `train`.
AFTER = {"prune": "score", "finetune": "prune", "export": "finetune", "report": "finetune"}
NO_JSON = ("completion", "help", "version")


@dataclass
class Outcome:
    """How a command ended: exit code or minus the signal, None if it ran too long; what it printed."""

    code: int | None
    out: str
    err: str
    modules: list[str]


def shorten() -> None:
    """Make the demo small enough to run in a second, and wait only so long for processes that do not exist."""
    distributed.JOIN_LIMIT = timedelta(seconds=2)
    demo.PER_CLASS, demo.TEST_PER_CLASS = 8, 4
    demo.TEACHER_EPOCHS = demo.BALANCED_EPOCHS = demo.STUDENT_EPOCHS = 1


def open_streams(encoding: str) -> None:
    """Open the standard streams on their descriptors, as Python does when it starts."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            setattr(sys, name, None)
            continue
        errors = "backslashreplace" if number == 2 else "strict"
        raw = io.FileIO(number, mode, closefd=False)
        buffer: Any = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
        setattr(sys, name, io.TextIOWrapper(buffer, encoding, errors, line_buffering=number == 2))


def start_fork(folder: Path, line: list[str], environment: Environment, log: Path) -> int:
    """Fork a child that runs a command in an environment; return its process number."""

    def run() -> None:
        os.chdir(folder)
        os.setpgid(0, 0)
        # Until `main` has its own handlers, nothing of the command has run.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        for number, name in ((0, os.devnull), (1, f"{log}.out"), (2, f"{log}.err")):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT, 0o666), number)
        os.closerange(3, 256)
        for name, value in environment.variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        tempfile.tempdir = None
        shorten()
        if environment.disk == "forbidden":
            os.setuid(NOBODY)
        environment.setup()
        open_streams(environment.encoding)
        sys.argv = ["cfp", *line]
        main()

    def after(code: int) -> int:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                try:
                    stream.flush()
                except OSError:
                    # Python would report the failure to flush stdout at exit, and end with 120.
                    code = 120 if stream is sys.stdout else code
        if code == 0 and environment.name == "ordinary":
            Path(f"{log}.modules").write_text("\n".join(sys.modules))
        return code

    return fork(run, after)


def start_fresh(folder: Path, line: list[str], environment: Environment, log: Path) -> int:
    """Start a command in a new Python; return its process number."""
    variables = {**os.environ, **environment.variables}
    with Path(f"{log}.out").open("wb") as out, Path(f"{log}.err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "cfp_cli", *line],
            cwd=folder,
            env={name: value for name, value in variables.items() if value is not None},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            preexec_fn=environment.setup,
            start_new_session=True,
        )
    return process.pid


def finish(process: int, log: Path, signals: Callable[[int, float], None] | None = None) -> Outcome:
    """Wait for a process and collect what it printed; kill it after `LIMIT_SECONDS`."""
    began, code = time.monotonic(), None
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            break
        seconds = time.monotonic() - began
        if seconds > LIMIT_SECONDS:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            break
        if signals:
            signals(process, seconds)
        time.sleep(0.005)
    texts = []
    for ending in ("out", "err", "modules"):
        path = Path(f"{log}.{ending}")
        texts.append(path.read_text(errors="replace") if path.exists() else "")
        path.unlink(missing_ok=True)
    return Outcome(code, texts[0], texts[1], texts[2].split())


@dataclass
class Harness:
    """Runs commands in copies of a folder and counts what happened."""

    root: Path
    counts: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    before: dict[str, Path] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def expect(self, holds: bool, promise: str) -> None:
        if not holds:
            self.broken.append(promise)
            sys.stderr.write(f"broken: {promise}\n")
            sys.stderr.flush()

    def prepare(self, names: list[str]) -> None:
        """Run the commands once; remember the folder as it was before each of them."""
        folder = self.root / "start"
        folder.mkdir(parents=True)
        if not os.fork():
            make_inputs(folder, "fuse" in names)
            os._exit(0)
        os.wait()
        needed = {"train", *names}
        for name in reversed(COMMANDS):
            if name in needed and name in AFTER:
                needed.add(AFTER[name])
        for name in (name for name in COMMANDS if name in needed):
            if name in names:
                self.before[name] = self.root / f"before-{name}"
                shutil.copytree(folder, self.before[name], symlinks=True)
            log, began = self.root / "log", time.monotonic()
            done = finish(start_fork(folder, COMMANDS[name], Environment("ordinary"), log), log)
            self.expect(done.code == 0, f"{name} fails: {done.err}")
            self.seconds[name] = time.monotonic() - began
            import_all(done.modules)

    def place(self, name: str, environment: Environment) -> Path | None:
        """Copy the folder of a command to where the environment wants it; None if the system refuses."""
        folder = self.root / "work"
        kind, _, size = environment.disk.partition(" ")
        if kind in ("full", "read-only"):
            content = sum(each.stat().st_size // 4096 + 1 for each in self.before[name].rglob("*") if each.is_file())
            pages = content + sum(each.is_dir() for each in self.before[name].rglob("*")) + 1
            kilobytes = 4 * pages + int(size) if size else 1 << 18
            folder.mkdir()
            line = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "cfp-test", str(folder)]
            if subprocess.run(line, capture_output=True, check=False).returncode:
                folder.rmdir()
                return None
        shutil.copytree(self.before[name], folder, symlinks=True, dirs_exist_ok=True)
        if kind == "read-only":
            subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        return folder

    def remove(self, environment: Environment) -> None:
        folder = self.root / "work"
        if environment.disk.startswith(("full", "read-only")):
            subprocess.run(["umount", str(folder)], check=True)
        shutil.rmtree(folder)

    def run(
        self, name: str, environment: Environment, signals: Callable[[int, float], None] | None = None
    ) -> Outcome | None:
        """Run a command in an environment, and check what it left; None if the system has no such environment."""
        folder = self.place(name, environment)
        if folder is None:
            self.counts["environments that need mount"] += 1
            return None
        line = COMMANDS[name] + ["--json"] * (environment.json and name not in NO_JSON)
        start = start_fresh if environment.fresh else start_fork
        log = self.root / "log"
        outcome = finish(start(folder, line, environment, log), log, signals)
        self.counts["commands"] += 1
        what = f"{name} with {environment.name}"
        self._files(what, folder, name)
        self.remove(environment)
        self._judge(what, environment, outcome)
        return outcome

    def interrupt(self, name: str, seconds: float, number: signal.Signals, times: int) -> None:
        """Send a signal so many seconds after the start, again and again."""
        left = times

        def send(process: int, now: float) -> None:
            nonlocal left
            if left and now >= seconds:
                left -= 1
                os.kill(process, number)

        what = f"{times} x {number.name} after {seconds:.2f} s"
        outcome = self.run(name, Environment(what), send)
        assert outcome is not None
        self.counts["interrupted"] += outcome.code == 130
        self.expect(outcome.code in (0, 130), f"{name} with {what}: exit {outcome.code}: {outcome.err[-300:]!r}")

    def _files(self, what: str, folder: Path, name: str) -> None:
        for old in self.before[name].rglob("*"):
            now = folder / old.relative_to(self.before[name])
            if old.is_file() and old.suffix in (".pt", ".safetensors", ".json", ".csv", ".html"):
                whole = now.exists() and is_whole(now)
                self.expect(whole or now.name == "last.pt", f"{what}: {now.name} is gone or not whole")
        self.expect(not leftovers(folder), f"{what}: {leftovers(folder)} left")

    def _judge(self, what: str, environment: Environment, outcome: Outcome) -> None:
        code, err = outcome.code, outcome.err
        self.counts["worked" if code == 0 else "refused" if code in (1, 2, 3, 130) else "ended otherwise"] += 1
        if "memory" in environment.name and code in (127, -signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS):
            # A library got no memory and ended the process, before its error could reach Python.
            self.counts["aborted by a library"] += 1
            return
        if code not in (0, 1, 2, 3, 130):
            self.expect(False, f"{what}: exit {code}: {err[-600:]!r}")
            return
        if BUG.search(err) or "Exception ignored" in err:
            self.expect(False, f"{what}: exit {code}: {err[-600:]!r}")
            return
        # Nobody reads stderr, or the reader of stdout has what it wanted.
        silent = any(words in environment.name for words in ("stderr", "all streams", "no reader"))
        if code and ("error: " in err or not silent):
            errors = [line for line in err.splitlines() if "error: " in line]
            last = err.strip().splitlines()[-1:]
            self.expect(len(errors) == 1 and errors == last, f"{what}: exit {code}, not one line: {err[-600:]!r}")
            named = not environment.words or re.search(environment.words, err)
            self.expect(bool(named), f"{what}: exit {code}, no {environment.words}: {err[-300:]!r}")
        self.expect(not (environment.works and code), f"{what}: exit {code}: {err[-300:]!r}")
        if code == 0 and environment.json and outcome.out.startswith(("{", "[")):
            json.loads(outcome.out)


def make_inputs(folder: Path, repvgg: bool) -> None:
    """Make images whose classes have names that are not ASCII, and a network with RepVGG blocks."""
    from cfp_cli.data.synthetic import generate

    data = generate(folder / "MÄNGEL", per_class=6, test_per_class=2, size=64, imbalance=1.0)
    for split in data.iterdir():
        for each in sorted(split.iterdir())[:1]:
            each.rename(each.with_name("Kratzer [größer]"))
    if not repvgg:
        return
    import torch

    from cfp_cli.checkpoints.save import save
    from cfp_cli.checkpoints.spec import ModelSpec, describe
    from cfp_cli.models.registry import create

    torch.set_num_threads(1)
    save(folder.parent / "repvgg.pt", describe(create("repvgg_a0", 2), ModelSpec("repvgg_a0", ("a", "ö"))))
    (folder / "repvgg.pt").symlink_to(folder.parent / "repvgg.pt")


def run() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kinds", nargs="*", default=[*LONG, "signals"])
    parser.add_argument("--commands", nargs="*", default=list(COMMANDS))
    parser.add_argument("--only", default="", help="a pattern of the environments' names")
    parser.add_argument("--limit", type=int, default=10**9, help="commands of each kind")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    # A library that is idle must not spin: children share the cores.
    os.environ["OMP_NUM_THREADS"] = "1"
    harness, began = Harness(options.folder.resolve()), time.monotonic()
    harness.prepare(options.commands)
    sys.stderr.write(f"prepared in {time.monotonic() - began:.1f} s\n")
    choice = random.Random(options.seed)
    for kind in options.kinds:
        runs: list[tuple[Any, ...]]
        if kind == "signals":
            # Every 50 ms, as long as the command takes, and a little longer.
            runs = [
                (name, 0.05 * step, number, times)
                for name in options.commands
                for step in range(int(harness.seconds[name] * 20) + 3)
                for number in (signal.SIGINT, signal.SIGTERM)
                for times in (1, 2, 3)
            ]
        else:
            environments = [each for each in LONG[kind]() if re.search(options.only, each.name)]
            runs = [(name, each) for each in environments for name in options.commands]
        for each in choice.sample(runs, min(options.limit, len(runs))):
            (harness.interrupt if kind == "signals" else harness.run)(*each)
        sys.stderr.write(f"{kind}: {dict(harness.counts)}, {time.monotonic() - began:.0f} s\n")
    report = {**harness.counts, "broken": len(harness.broken), "seconds": round(time.monotonic() - began)}
    sys.stdout.write(json.dumps(report) + "\n")
    sys.exit(bool(harness.broken))


if __name__ == "__main__":
    run()

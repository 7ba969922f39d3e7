"""Kills commands between every two writes, fills the disk at every write, races commands, interrupts from the start.

Run as a program: `python tests/trust/faults.py FOLDER [--commands NAME...] [--races N] [--interrupts N]`. Prints one
JSON object of counts, and a line for each broken promise on stderr; exits with 1 if there is one.

The program imports torch once and forks a child for each command. It computes nothing itself, as the threads of torch
do not survive a fork.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import safetensors
import torch
from fault_commands import COMMANDS, PAIRS, PIPELINE, SHORT, SMALL_DEMO, train
from faulty_process import TEMPORARY, Fault, Outcome, fill, finish, kill, start
from small_network import FUSIBLE, small_architectures

import cfp_cli.commands.bench
import cfp_cli.runs.bench
import cfp_cli.runs.comparison
import cfp_cli.runs.evaluate
import cfp_cli.runs.export
import cfp_cli.runs.fuse
import cfp_cli.runs.predict  # noqa: F401
from cfp_cli.checkpoints.save import save
from cfp_cli.checkpoints.spec import ModelSpec, describe
from cfp_cli.data.synthetic import generate
from cfp_cli.models.registry import create
from cfp_cli.runs import demo

BUG = re.compile(r"this is a bug|Traceback", re.IGNORECASE)
FULL = re.compile(r"error: cannot write .+: its disk is full; ")
TOO_LARGE = re.compile(r"error: cannot write .+: .*; .*(`ulimit -f`|raise the limit)")
STARTED_BEFORE = "was started with other options"
# A command that trains deletes the state of an earlier one. The graph of OpenVINO's two files is deleted before its
# weights are replaced.
DELETED = ("last.pt", "small.xml")
# Results that a killed and repeated command must reproduce.
RESULTS = ("rl.pt", "folds.pt", "folds.fold-1.pt", "folds.fold-2.pt", "fused.pt")
RESULTS += ("cfp-run/pruned.pt", "cfp-run/finetuned.pt", "demo-run/finetuned.pt")
# Bytes. The larger ones let small files through, so that a later file of the same command fails.
LIMITS = (4_096, 16_384, 65_536)


def hashes(folder: Path) -> dict[str, str]:
    """The content of every file that has its final name."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            found[str(name)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def leftovers(folder: Path) -> list[str]:
    """Temporary files and folders that no process uses any more."""
    patterns = ("*.tmp", ".cfp-trial-*", ".*.filling-*", f"{TEMPORARY}/cfp-*")
    return [str(path.relative_to(folder)) for pattern in patterns for path in folder.rglob(pattern)]


def records(folder: Path) -> list[Any]:
    path = folder / "cfp-run" / "run.json"
    return json.loads(path.read_text())["records"] if path.exists() else []


def weights(path: Path) -> Any:
    content = torch.load(path, weights_only=True)["state_dict"]
    return {name: value.numpy().tobytes() for name, value in content.items()}


def is_whole(path: Path) -> bool:
    """Whether a file can be read to its end; False for an unknown kind."""
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
        elif path.suffix == ".npy":
            np.load(path)
        elif path.suffix == ".pt2":
            return zipfile.ZipFile(path).testzip() is None
        elif path.suffix == ".xml":
            ElementTree.parse(path)
        else:
            return path.suffix == ".md" and path.read_text().endswith("\n")
    except Exception:
        return False
    return True


@dataclass
class Harness:
    """Runs the scenarios in copies of a folder and counts what happened."""

    root: Path
    counts: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    copies: int = 0

    def expect(self, holds: bool, promise: str) -> None:
        self.counts["checks"] += 1
        if not holds:
            self.broken.append(promise)
            sys.stderr.write(f"broken: {promise}\n")

    def copy(self, folder: Path) -> Path:
        self.copies += 1
        target = self.root / f"copy{self.copies}"
        shutil.copytree(folder, target, symlinks=True)
        return target

    def run(
        self, folder: Path, line: list[str], at: int = 0, fault: Fault | None = None, largest: int | None = None
    ) -> Outcome:
        outcome = finish(folder, start(folder, line, at, fault, largest))
        self.counts["commands"] += 1
        if BUG.search(outcome.err):
            self.counts["bugs"] += 1
            self.expect(False, f"{' '.join(line)}: {outcome.err[-300:]}")
        return outcome

    def succeed(self, folder: Path, line: list[str]) -> Outcome:
        done = self.run(folder, line)
        self.expect(done.code == 0, f"{' '.join(line)} fails: {done.err}")
        return done

    def prepare(self, names: list[str]) -> dict[str, Path]:
        """Run commands twice, in their order; return the folder as it was before each command of the second round."""
        commands = {name: command for name, command in COMMANDS.items() if name in names or name in PIPELINE}
        folder = self.root / "start"
        folder.mkdir(parents=True)
        if not os.fork():
            generate(folder / "data", per_class=6, test_per_class=2, size=64, imbalance=1.0)
            classes = tuple(sorted(each.name for each in (folder / "data/train").iterdir()))
            spec = ModelSpec(FUSIBLE, classes, input_size=(32, 32))
            save(folder / "repvgg.pt", describe(create(FUSIBLE, len(classes)), spec))
            os._exit(0)
        os.wait()
        for command in commands.values():
            if command.earlier is not None:
                self.succeed(folder, [*command.line, *command.earlier])
        before = {}
        for name, command in commands.items():
            before[name] = self.copy(folder)
            self.succeed(folder, command.line)
        return before

    def faults(self, name: str, folder: Path, every: int) -> None:
        """Kill a command at each of its operations, fill the disk there, and limit the size of its files."""
        whole = self.copy(folder)
        done = self.run(whole, COMMANDS[name].line)
        old, new = hashes(folder), hashes(whole)
        self.counts["operations"] += done.operations
        for at in range(1, done.operations + 1, every):
            self._killed(name, folder, whole, at, old, new)
            self._full(name, folder, at, old, new)
        for largest in LIMITS:
            self._too_large(name, folder, largest, old, new)
        shutil.rmtree(whole)

    def _killed(self, name: str, folder: Path, whole: Path, at: int, old: dict[str, str], new: dict[str, str]) -> None:
        cut, command, what = self.copy(folder), COMMANDS[name], f"{name} killed at {at}"
        self.expect(self.run(cut, command.line, at, kill).code == -signal.SIGKILL, f"{what}: no kill")
        self.counts["kills"] += 1
        self._whole_files(what, cut, old, new)
        kept = records(folder)
        self.expect(records(cut)[: len(kept)] == kept, f"{what}: records lost")
        again = self.run(cut, [*command.line, *(["--resume"] if command.resumes else [])])
        if again.code and command.resumes and STARTED_BEFORE in again.err and "epoch " not in again.err:
            # The command was killed before it wrote anything, so the state is that of the earlier run.
            self.counts["refused to resume an earlier run"] += 1
            again = self.run(cut, command.line)
        complete = name == "split" and (cut / "split-data").exists() and "is not an empty folder" in again.err
        self.expect(again.code == 0 or complete, f"{what}, then again: {again.err}")
        self.expect(leftovers(cut) == [], f"{what}: {leftovers(cut)} left")
        self.expect(hashes(cut).keys() == new.keys(), f"{what}: {hashes(cut).keys() ^ new.keys()}")
        for result in RESULTS:
            if (whole / result).exists():
                same = (cut / result).exists() and weights(cut / result) == weights(whole / result)
                self.expect(same, f"{what}: {result} differs")
        shutil.rmtree(cut)

    def _full(self, name: str, folder: Path, at: int, old: dict[str, str], new: dict[str, str]) -> None:
        cut, what = self.copy(folder), f"{name} full at {at}"
        done = self.run(cut, COMMANDS[name].line, at, fill)
        self.counts["full disks"] += 1
        # The folder is flushed after the rename, when the file is complete: an error there changes nothing.
        self._refused(what, cut, done, FULL, old, new)

    def _too_large(self, name: str, folder: Path, largest: int, old: dict[str, str], new: dict[str, str]) -> None:
        cut, what = self.copy(folder), f"{name} with files of at most {largest} bytes"
        done = self.run(cut, COMMANDS[name].line, largest=largest)
        self.counts["size limits"] += 1
        self.counts["refused by a size limit"] += done.code != 0
        self._refused(what, cut, done, TOO_LARGE, old, new)

    def _refused(
        self, what: str, cut: Path, done: Outcome, line: re.Pattern[str], old: dict[str, str], new: dict[str, str]
    ) -> None:
        """The command worked, or its last line says which path cannot be written; files are whole in both cases."""
        if done.code != 0:
            last = (done.err.strip().splitlines() or [""])[-1]
            self.expect(done.code == 1, f"{what}: exit {done.code}")
            self.expect(line.match(last) is not None, f"{what}: {last}")
        self._whole_files(what, cut, old, new)
        self.expect(leftovers(cut) == [], f"{what}: {leftovers(cut)} left")
        shutil.rmtree(cut)

    def _whole_files(self, what: str, folder: Path, old: dict[str, str], new: dict[str, str]) -> None:
        """Each file is the old one or a complete one. Files with times in them must be readable."""
        now = hashes(folder)
        for path in old:
            self.expect(path in now or path.endswith(DELETED), f"{what}: {path} is gone")
        for path, digest in now.items():
            if digest not in (old.get(path), new.get(path)):
                self.expect(is_whole(folder / path), f"{what}: {path} is not whole")

    def race(self, folder: Path, pair: tuple[str, str], delay: float) -> None:
        """Start two commands in one run; each succeeds or reports who holds the run, and no record is lost."""
        cut = self.copy(folder)
        before = len(records(cut))
        first = start(cut, COMMANDS[pair[0]].line)
        time.sleep(delay)
        second = start(cut, COMMANDS[pair[1]].line)
        done = [finish(cut, first), finish(cut, second)]
        self.counts["races"] += 1
        self.counts["commands"] += 2
        for name, outcome in zip(pair, done, strict=True):
            refused = outcome.code == 1 and "is in use by `cfp " in outcome.err
            self.counts["refused in a race"] += refused
            self.expect(outcome.code == 0 or refused, f"race of {pair}: {name}: {outcome.code} {outcome.err[-300:]}")
        written = sum(outcome.code == 0 and COMMANDS[name].records for name, outcome in zip(pair, done, strict=True))
        self.expect(len(records(cut)) == before + written, f"race of {pair}: records lost")
        self.expect(leftovers(cut) == [], f"race of {pair}: {leftovers(cut)} left")
        shutil.rmtree(cut)

    def prepare_interrupts(self, folder: Path) -> Path:
        """Return a folder whose network every process knows; see `small_network`."""
        target = self.root / "interrupted"
        shutil.copytree(folder / "data", target / "data")
        self.succeed(target, train("dddn", "rl.pt", *SHORT))
        for name in ("score", "prune"):
            self.succeed(target, COMMANDS[name].line)
        return target

    def interrupt(self, folder: Path, name: str, seconds: float, number: signal.Signals, times: int) -> None:
        """Send a signal so many seconds after the start, again and again, to a process of its own."""
        line = [sys.executable, "-m", "cfp_cli", *COMMANDS[name].line]
        process = subprocess.Popen(line, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(seconds)
        for _ in range(times):
            process.send_signal(number)
            time.sleep(0.005)
        _, err = process.communicate()
        what = f"{name} {number.name} at {seconds:.2f} s"
        self.counts["interruptions"] += 1
        lines = [line for line in err.splitlines() if line.startswith("error: ")]
        if process.returncode == 130:
            self.counts["ended with 130"] += 1
            self.expect(len(lines) == 1 and not BUG.search(err), f"{what}: {err}")
        elif process.returncode == 0:
            self.counts["ended before the signal"] += 1
        else:
            # Python itself was starting: none of our code has run.
            self.counts["ended while Python started"] += 1
            self.expect("cfp_cli/main.py" not in err, f"{what}: {err}")
        self.expect(leftovers(folder) == [], f"{what}: {leftovers(folder)} left")


def run() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--commands", nargs="*", default=list(COMMANDS))
    parser.add_argument("--every", type=int, default=1, help="strike at every Nth operation only")
    parser.add_argument("--races", type=int, default=56)
    parser.add_argument("--interrupts", type=int, default=60)
    options = parser.parse_args()
    # A library that is idle must not spin: children share the cores.
    os.environ["OMP_NUM_THREADS"] = "1"
    for constant, value in SMALL_DEMO.items():
        setattr(demo, constant, value)
    harness, began = Harness(options.folder.resolve()), time.monotonic()
    before = harness.prepare(options.commands)
    for name in options.commands:
        harness.faults(name, before[name], options.every)
        sys.stderr.write(f"{name}, {time.monotonic() - began:.0f} s: {dict(harness.counts)}\n")
        sys.stderr.flush()
    done = harness.root / "start"
    for number in range(options.races):
        harness.race(done, PAIRS[number % len(PAIRS)], 0.05 * (number // len(PAIRS)))
    sys.stderr.write(f"races: {dict(harness.counts)}\n")
    sys.stderr.flush()
    done = harness.prepare_interrupts(done)
    names = ("finetune", "export-pt2", "predict")
    for number in range(options.interrupts):
        signals = (signal.SIGINT, signal.SIGTERM)[number % 2]
        harness.interrupt(done, names[number % len(names)], 0.05 * number, signals, 1 + number % 3)
    report = {**harness.counts, "broken": len(harness.broken), "seconds": round(time.monotonic() - began)}
    sys.stdout.write(json.dumps(report) + "\n")
    sys.exit(bool(harness.broken))


if __name__ == "__main__":
    with small_architectures():
        run()

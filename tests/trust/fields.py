"""Replaces fields of the files that cfp reads, gives each file a right hash again, and runs a command that reads it.

Run as a program: `python tests/trust/fields.py FOLDER [--kinds NAME...] [--limit N] [--seconds S]`. Prints one JSON
object of counts, and a line for each broken promise on stderr; exits with 1 if there is one. The promise: the command
works, or it ends with an exit code of its own and one line.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import csv
import io
import json
import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from run_files import (
    Files,
    make_run,
    record_again,
    rewrite_checkpoint,
    rewrite_json,
    rewrite_scores,
    rewrite_state,
    rewrite_table,
)
from small_network import small_architectures

from cfp_cli.main import main
from cfp_cli.training.history import read_csv

# A value that stands for a field that is not there.
MISSING = "<missing>"
VALUES: tuple[Any, ...] = (
    None, True, 7, -1, 10**30, float("nan"), 1e308, "text", "", [], [[1]], {}, {"a": None}, MISSING,
)  # fmt: skip
TENSORS: dict[str, Callable[[Any], Any]] = {
    "null": lambda _: None,
    "text": lambda _: "text",
    "missing": lambda _: MISSING,
    "nan": lambda value: value * float("nan"),
    "short": lambda value: value.reshape(-1)[:-1],
    "deep": lambda value: value[None],
    "type": lambda value: value.astype(np.int8) if isinstance(value, np.ndarray) else value.to(torch.int8),
}
LINE = re.compile(r"\bline \d+|end of (document|data)")
UNREACHABLE = 3
BUG = re.compile(r"this is a bug|Traceback", re.IGNORECASE)
Path_ = tuple[Any, ...]


@dataclass(frozen=True)
class Mutation:
    """A file in which one field is replaced, and the command that reads it."""

    kind: str
    file: Path
    where: Path_
    value: str
    apply: Callable[[], None]
    command: list[str]

    def __str__(self) -> str:
        return f"{self.kind}: {'.'.join(map(str, self.where))} = {self.value}: {' '.join(self.command)}"


def paths(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """Where the fields of nested dicts and lists are; of a list only the first and last."""
    if path:
        yield path
    if isinstance(value, dict):
        for name, each in value.items():
            yield from paths(each, (*path, name))
    if isinstance(value, list | tuple):
        for index in sorted({0, len(value) - 1} if value else ()):
            yield from paths(value[index], (*path, index))


def replaced(content: Any, path: Path_, value: Any) -> Any:
    """A copy of nested data in which one field has another value, or is missing."""
    content = copy.deepcopy(content)
    parent = content
    for name in path[:-1]:
        if isinstance(parent[name], tuple):
            parent[name] = list(parent[name])
        parent = parent[name]
    if isinstance(value, str) and value == MISSING:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return content


def at(content: Any, path: Path_) -> Any:
    for name in path:
        content = content[name]
    return content


def variants(content: Any) -> Iterator[tuple[Path_, str, Any]]:
    """All fields with all values; of tensors only the first and last of a dict of them."""
    seen: Counter[Path_] = Counter()
    for path in paths(content):
        value = at(content, path)
        if isinstance(value, np.ndarray | torch.Tensor):
            seen[path[:-1]] += 1
            if seen[path[:-1]] > 3:
                continue
            for name, change in TENSORS.items():
                with contextlib.suppress(IndexError, RuntimeError):
                    yield path, name, change(value)
        else:
            for replacement in VALUES:
                if replacement is not value:
                    yield path, repr(replacement), replacement


@dataclass
class Harness:
    """Applies mutations to a run and counts what the commands do."""

    files: Files
    counts: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    unnamed: list[str] = field(default_factory=list)
    seconds: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.root = self.files.run.parent
        self.whole = {path: path.read_bytes() for path in self.root.rglob("*") if path.is_file()}

    def restore(self) -> None:
        for path in [path for path in self.root.rglob("*") if path.is_file()]:
            if path not in self.whole:
                path.unlink()
        for path, content in self.whole.items():
            if not path.exists() or path.read_bytes() != content:
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content)

    def check(self, mutation: Mutation) -> None:
        mutation.apply()
        began = time.monotonic()
        code, err = command(mutation.command)
        self.seconds[mutation.kind] += time.monotonic() - began
        self.restore()
        self.counts["mutations"] += 1
        self.counts[mutation.kind] += 1
        errors = [line for line in err.splitlines() if line.startswith("error: ")]
        last = err.strip().splitlines()[-1:] or [""]
        self.counts["accepted" if code == 0 else "refused"] += 1
        if code not in (0, 1, 2, 3) or BUG.search(err) or (code and (len(errors) != 1 or errors != last)):
            self.broken.append(f"{mutation}: exit {code}: {err[-400:]}")
            sys.stderr.write(f"broken: {self.broken[-1]}\n")
        elif code == UNREACHABLE:
            # The value is a possible one, and the message is about the target.
            self.counts["target out of reach"] += 1
        elif code:
            named = mutation.file.name in err
            names = [str(name) for name in mutation.where if not isinstance(name, int)]
            # A file that cannot be parsed has lines and no fields.
            by_field = any(name in err for name in names[-2:]) or LINE.search(err) is not None
            if named and by_field:
                self.counts["refused by file and field"] += 1
            else:
                self.unnamed.append(
                    f"{mutation}: names {'file' if named else 'field' if by_field else 'neither'}: {err}"
                )
                sys.stderr.write(f"unnamed: {self.unnamed[-1]}\n")

    def mutations(self, kind: str) -> Iterator[Mutation]:
        yield from KINDS[kind](self.files)


def command(arguments: list[str]) -> tuple[int, str]:
    """Run the command line in this process; return its exit code and what it printed on stderr."""
    err = io.StringIO()
    argv, sys.argv = sys.argv, ["cfp", *arguments]
    try:
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
            main()
    except SystemExit as end:
        return int(end.code or 0), err.getvalue()
    finally:
        sys.argv = argv
    raise AssertionError("main returns")


def _prune(files: Files) -> list[str]:
    return ["prune", "--run", str(files.run), "--ratio", "0.5", "--dry-run"]


def _report(files: Files) -> list[str]:
    return ["report", "--run", str(files.run), "--no-bench"]


def _finetune(files: Files) -> list[str]:
    line = ["finetune", "--run", str(files.run), "--teachers", str(files.model), "--epochs", "1", "--batch-size", "8"]
    return [*line, "--views", "1", "--augment", "none"]


def spec(files: Files) -> Iterator[Mutation]:
    path = files.run / "pruned.pt"
    content = torch.load(path, weights_only=True)
    del content["content_sha256"]
    for where, name, value in variants({name: each for name, each in content.items() if name != "state_dict"}):

        def apply(where: Path_ = where, value: Any = value) -> None:
            def change(old: dict[str, Any]) -> None:
                new = replaced(old, where, value)
                old.clear()
                old.update(new)

            rewrite_checkpoint(path, change)

        yield Mutation("spec", path, where, name, apply, ["eval", str(path), str(files.data)])


def records(files: Files) -> Iterator[Mutation]:
    path = files.run / "run.json"
    content = json.loads(path.read_text())
    del content["content_sha256"]
    for where, name, value in variants(content):
        line = _prune(files) if where[:2] == ("records", 0) or len(where) < 2 else _report(files)
        yield Mutation("run.json", path, where, name, _rewrite(path, where, value), line)


def plan(files: Files) -> Iterator[Mutation]:
    path = files.run / "plan.json"
    content = json.loads(path.read_text())
    del content["content_sha256"]
    line = ["prune", "--run", str(files.run), "--plan", str(path), "--no-reconstruct"]
    for where, name, value in variants(content):
        yield Mutation("plan", path, where, name, _rewrite(path, where, value), line)


def _rewrite(path: Path, where: Path_, value: Any) -> Callable[[], None]:
    def apply() -> None:
        def change(content: Any) -> Any:
            return replaced(content, where, value)

        # NaN is no JSON, but Python reads it.
        rewrite_json(path, change)

    return apply


def scores(files: Files) -> Iterator[Mutation]:
    path = files.run / "scores.safetensors"
    contents: list[dict[str, Any]] = []
    whole = path.read_bytes()
    rewrite_scores(path, lambda facts, tensors: contents.append({"facts": facts, "tensors": dict(tensors)}))
    path.write_bytes(whole)
    content = {"facts": {**contents[0]["facts"]}, "tensors": contents[0]["tensors"]}
    content["facts"].pop("content_sha256", None)
    for where, name, value in variants(content):
        if len(where) == 1 or (where[0] == "tensors" and not isinstance(value, np.ndarray) and value != MISSING):
            continue

        def apply(where: Path_ = where, value: Any = value) -> None:
            def change(facts: dict[str, Any], tensors: dict[str, Any]) -> None:
                new = replaced({"facts": facts, "tensors": tensors}, where, value)
                for old, part in ((facts, "facts"), (tensors, "tensors")):
                    old.clear()
                    old.update(new[part])

            rewrite_scores(path, change)
            record_again(files.run, "scores")

        yield Mutation("scores", path, where, name, apply, _prune(files))


def last(files: Files) -> Iterator[Mutation]:
    path = files.run / "last.pt"
    content = torch.load(path, weights_only=True)
    del content["content_sha256"]
    for where, name, value in variants(content):

        def apply(where: Path_ = where, value: Any = value) -> None:
            def change(old: dict[str, Any]) -> None:
                new = replaced(old, where, value)
                old.clear()
                old.update(new)

            rewrite_state(path, change)

        yield Mutation("last.pt", path, where, name, apply, [*_finetune(files), "--resume"])


def caches(files: Files) -> Iterator[Mutation]:
    for path in sorted((files.run / "cache").glob("*.npy")):
        yield from _cache(files, path)


def _cache(files: Files, path: Path) -> Iterator[Mutation]:
    table = np.load(path)
    changed = {
        "short": table[:-1],
        "deep": table[None],
        "type": table.astype(np.float64),
        "int": table.astype(np.int32),
        "empty": table[:0],
        "nan": table * np.nan,
    }
    for name, value in changed.items():

        def apply(value: Any = value) -> None:
            rewrite_table(path, value)

        yield Mutation("teacher cache", path, (name,), name, apply, _finetune(files))
    for content in (b"", b"x" * 40, path.read_bytes()[:-1], path.read_bytes()[:100]):

        def cut(content: bytes = content) -> None:
            path.write_bytes(content)

        yield Mutation("teacher cache", path, ("bytes",), str(len(content)), cut, _finetune(files))


def history(files: Files) -> Iterator[Mutation]:
    path = files.run / "history.csv"
    header, *lines = csv.reader(path.read_text().splitlines())
    assert len(read_csv(path)) == len(lines)
    for column, name in enumerate(header):
        for value in ("", "nan", "inf", "-1", "7", "1e400", "text", "1" * 5000, "[]", '"', "\0", MISSING):
            for heading in (False, True):

                def apply(column: int = column, value: str = value, heading: bool = heading) -> None:
                    rows = [list(row) for row in (header, *lines)]
                    row = rows[0 if heading else 1]
                    row[column : column + 1] = [] if value == MISSING else [value]
                    path.write_text("".join(",".join(row) + "\n" for row in rows))
                    record_again(files.run, "history")

                yield Mutation("history.csv", path, (name,), value[:10], apply, _report(files))


def configuration(files: Files) -> Iterator[Mutation]:
    path = files.run.parent / "cfp.toml"
    options = "ratio rates target allocation clusters min-channels round-to keep ignore run rounds plan seed batch-size"
    options += " device threads reconstruct json out"
    values = ("nan", "inf", "true", "[]", "[[1]]", "{}", "{a=1}", "1979-05-27", '"text"', '""', "-1", "1e400", "1.5")
    values += ("99999999999999999999999999", '"\\u0000"', '"a\\nb"', "", "[", "0x", '"""')
    for option in options.split():
        for value in values:

            def apply(option: str = option, value: str = value) -> None:
                path.write_text(f"[prune]\n{option} = {value}\n")

            line = ["prune", "--dry-run"]
            line += [] if option == "run" else ["--run", str(files.run)]
            line += [] if option in ("ratio", "rates", "plan") else ["--ratio", "0.5"]
            yield Mutation("cfp.toml", path, (option,), value, apply, line)


KINDS: dict[str, Callable[[Files], Iterator[Mutation]]] = {
    "run.json": records,
    "plan": plan,
    "scores": scores,
    "spec": spec,
    "history.csv": history,
    "cfp.toml": configuration,
    "teacher cache": caches,
    "last.pt": last,
}


def run() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--limit", type=int, default=10**9, help="mutations of each kind")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    os.chdir(options.folder)
    began = time.monotonic()
    harness = Harness(make_run(options.folder.resolve()))
    chosen: list[Mutation] = []
    for kind in options.kinds:
        mutations = list(harness.mutations(kind))
        chosen += random.Random(options.seed).sample(mutations, min(options.limit, len(mutations)))
    random.Random(options.seed).shuffle(chosen)
    for number, mutation in enumerate(chosen):
        if time.monotonic() - began > options.seconds:
            break
        harness.check(mutation)
        if number % 100 == 99:
            sys.stderr.write(f"{number + 1} of {len(chosen)} in {time.monotonic() - began:.0f} s\n")
            sys.stderr.flush()
    report = {**harness.counts, "broken": len(harness.broken), "seconds": round(time.monotonic() - began)}
    report["unnamed"] = len(harness.unnamed)
    report["each"] = {kind: round(each / harness.counts[kind], 2) for kind, each in harness.seconds.items()}
    sys.stdout.write(json.dumps(report) + "\n")
    sys.exit(bool(harness.broken))


if __name__ == "__main__":
    with small_architectures():
        run()

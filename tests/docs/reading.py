"""Read the commands and the Python code of the pages."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_TOOLS = ("cfp ", "make ", "pip ", "python ", "cargo ", "maturin ", "torchrun ", "git ", "cd ")


@dataclass(frozen=True)
class Shown:
    """A command line or a piece of Python, and its line on the page."""

    kind: str
    text: str
    line: int


def blocks(page: Path) -> list[Shown]:
    """All commands and Python of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found: list[Shown] = []
    for fence in _FENCE.finditer(text):
        language, body = fence.groups()
        first = text.count("\n", 0, fence.start()) + 2
        if language == "python":
            found.append(Shown("python", body, first))
        elif language in ("", "console"):
            found += commands(body, first)
    return found


def commands(body: str, first: int) -> list[Shown]:
    """The command lines of a block: lines after `$`, or else lines that start with a tool's name."""
    found = []
    marked = any(line.startswith("$ ") for line in body.splitlines())
    for number, line in enumerate(body.splitlines()):
        typed = line.removeprefix("$ ") if marked and line.startswith("$ ") else "" if marked else line
        if typed.startswith((*_TOOLS, "eval ")):
            found.append(Shown("command", typed, first + number))
    return found


def words(command: str) -> list[str]:
    """The words of a command without comment, redirection or the shell's `eval "$(...)"` around it."""
    inner = re.match(r'eval "\$\((.*)\)"', command)
    return shlex.split((inner[1] if inner else command).split(" > ")[0], comments=True)


def inline(page: Path) -> list[str]:
    """Commands in running text, such as `cfp inspect model.pt`."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return re.findall(r"`(cfp [^`]+)`", text)


def links(page: Path) -> list[str]:
    """Targets of a page's links to other files, without their anchors."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    return [target for target in targets if "://" not in target]

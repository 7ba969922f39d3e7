"""Pages, docstrings, comments and messages do not contain phrases that readers of this project had to decipher.

The list is no style guide; see CONTRIBUTING.md for the rules. Add a phrase when a reader stumbles over it.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from reading import PAGES, ROOT

# Each phrase with the plain words to use instead.
PHRASES = {
    r"(told|tells?|telling) (of|how|about|what|which|that)": "report, show, state",
    r"(is|are|was|were|be) told": "report, show, state",
    r"tells? (nothing|much|more|most|all|it)": "contain, explain",
    r"(came|come|comes) to (?!a (stop|halt))": "result in, be",
    r"(what|that|which) (is|was|were) left(?! (out|of|un))": "remaining",
    r"(what|which|that) (is|was|were) there|(what|which) there (is|was|were)": "name the thing",
    r"none is kept|\w+ of \w+( \w+)? are none\b": "state the fact directly",
    r"of (those that|what (is|was|are|were))": "name the thing",
    r"in (another light|silence)": "with another brightness; silently",
    r"rates by hand|found by hand": "manually",
    r"goes? by\b": "is passed as, is named",
    r"knows? (nothing|of|how|what|which|its|their|when)": "contain, use, depend on",
    r"(whole|long) road": "pipeline",
    r"to be had|is had|are had": "available",
    r"(makes?|made) of (it|them|what)": "name the result",
    r"in so many": "the number of",
    r"as (it stands|they stand)": "state the fact directly",
    r"(counts?|is|are) alike": "equal, the same",
    r"gives? back": "return",
    # The vocabulary of docs/method.md.
    r"classifier teacher": "class-balanced teacher",
    r"prunes? in (\w+ )?steps|pruning in steps": "rounds",
    r"set group|channel groups?": "channel set",
}
BANNED = re.compile(r"\b(?:" + "|".join(PHRASES) + ")", re.IGNORECASE)


def python_text(path: Path) -> Iterator[tuple[int, str]]:
    """Comments and strings of a Python file, with their lines. Neighbouring comments are one text."""
    source = path.read_text(encoding="utf-8")
    comments: list[tuple[int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments.append((token.start[0], token.string.lstrip("# ")))
    yield from joined(comments)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def rust_text(path: Path) -> Iterator[tuple[int, str]]:
    """Comments and strings of a Rust file, with their lines."""
    lines = list(enumerate(path.read_text(encoding="utf-8").splitlines(), start=1))
    yield from joined([(n, line.split("//", 1)[1].lstrip("/! ")) for n, line in lines if "//" in line])
    for number, line in lines:
        yield from ((number, text) for text in re.findall(r'"((?:[^"\\]|\\.)*)"', line.split("//")[0]))


def joined(comments: list[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Comments on consecutive lines as one text each."""
    block: list[tuple[int, str]] = []
    for number, text in comments:
        if block and number != block[-1][0] + 1:
            yield block[0][0], " ".join(each for _, each in block)
            block = []
        block.append((number, text))
    if block:
        yield block[0][0], " ".join(each for _, each in block)


def page_text(path: Path) -> Iterator[tuple[int, str]]:
    """Paragraphs of a page, with their lines."""
    number = 1
    for paragraph in path.read_text(encoding="utf-8").split("\n\n"):
        yield number, paragraph
        number += paragraph.count("\n") + 2


def riddles(path: Path) -> list[str]:
    """The banned phrases of a file."""
    reader = {".py": python_text, ".pyi": python_text, ".rs": rust_text}.get(path.suffix, page_text)
    return [
        f"{path.relative_to(ROOT)}:{number}: '{found[0]}' in: {' '.join(text.split())[:300]}"
        for number, text in reader(path)
        if (found := BANNED.search(" ".join(text.split())))
    ]


def sources(folder: str) -> list[Path]:
    """The source files of a folder."""
    return [
        path
        for suffix in (".py", ".pyi", ".rs", ".j2")
        for path in sorted((ROOT / folder).rglob(f"*{suffix}"))
        if "target" not in path.parts and path != Path(__file__)
    ]


@pytest.mark.parametrize("folder", ["cfp_cli", "cfp_core", "benchmarks", "docs", "examples", "tests"])
def test_source_is_in_plain_english(folder: str) -> None:
    assert [riddle for path in sources(folder) for riddle in riddles(path)] == []


def test_pages_are_in_plain_english() -> None:
    # The text of generated pages comes from the source.
    written = [page for page in PAGES if page.name not in ("cli.md", "python.md")]
    assert [riddle for path in [*written, ROOT / "CHANGELOG.md", ROOT / "Makefile"] for riddle in riddles(path)] == []


def test_the_test_finds_riddles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    files = {
        "a.py": '"""Fit what is left\nto it."""\nx = 1  # progress is told\n# of the layers\n',
        "b.rs": '/// What is told\n/// here.\nfn f() { g("it came to 3"); }\n',
        "c.md": "First.\n\nNone is kept.\n",
    }
    found = []
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        found += riddles(tmp_path / name)
    assert [line.split(": ")[0] for line in found] == ["a.py:3", "a.py:1", "b.rs:1", "b.rs:3", "c.md:3"]

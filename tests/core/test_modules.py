"""The modules of the Rust crate form layers: a file uses only its own module and modules before it, without circles."""

from __future__ import annotations

import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[2] / "cfp_core/src"
# The order in which modules depend on one another.
ORDER = ("error", "threads", "maps", "shares", "products", "scores", "criteria", "accumulator", "python")


def files() -> dict[tuple[str, ...], str]:
    """Source of every file by its module path, without comments; test modules and the crate root are left out."""
    sources = {}
    for path in sorted(SOURCES.rglob("*.rs")):
        parts = path.relative_to(SOURCES).with_suffix("").parts
        if parts not in (("lib",), ("scores", "rank", "tests")):
            text = re.sub(r"//.*", "", path.read_text(encoding="utf-8")).split("#[cfg(test)]\nmod tests {")[0]
            sources[parts[:-1] if parts[-1] == "mod" else parts] = text
    return sources


def paths(text: str) -> Iterator[list[str]]:
    """Every path that begins with `crate`, `super` or `self`; each branch of `use a::{b, c::d}` is a path."""

    def expand(prefix: list[str], tree: str) -> Iterator[list[str]]:
        head, brace, rest = tree.partition("{")
        if not brace:
            yield [*prefix, *head.split(" as ")[0].strip().split("::")]
            return
        prefix = [*prefix, *(part for part in head.strip().split("::") if part)]
        depth, branch = 0, ""
        for letter in rest.rpartition("}")[0] + ",":
            depth += (letter == "{") - (letter == "}")
            if letter == "," and depth == 0:
                if branch.strip():
                    yield from expand(prefix, branch)
                branch = ""
            else:
                branch += letter

    for tree in re.findall(r"\b((?:crate|super|self)::(?:\w|::|\{[^;]*\}(?=;))+)", text):
        yield from expand([], tree)


def used(module: tuple[str, ...], text: str, known: set[tuple[str, ...]]) -> set[tuple[str, ...]]:
    """Other files whose names a file uses."""
    # A submodule in the same file, as `python/mod.rs` has one, reaches the file's own submodules by `super`.
    found = {(*module, name) for name in re.findall(r"^pub(?:\(crate\))? use (\w+)::", text, re.MULTILINE)}
    for path in paths(text):
        first, *rest = path
        if first == "crate":
            base: tuple[str, ...] = ()
        elif first == "super" and (*module, rest[0]) not in known:
            base = module[:-1]
        else:
            base = module
        target = (*base, *rest)
        while target and target not in known:
            target = target[:-1]
        found.add(target)
    return found - {module, ()}


def graph() -> dict[tuple[str, ...], set[tuple[str, ...]]]:
    sources = files()
    return {module: used(module, text, set(sources)) for module, text in sources.items()}


def test_every_module_is_in_the_order() -> None:
    assert {module[0] for module in files()} == set(ORDER)


def test_a_module_uses_only_modules_before_it() -> None:
    upward = [
        f"{'::'.join(module)} uses {'::'.join(target)}"
        for module, targets in graph().items()
        for target in targets
        if ORDER.index(target[0]) > ORDER.index(module[0])
    ]
    assert upward == []


def test_files_use_one_another_in_no_circle() -> None:
    edges = graph()
    assert edges[("scores", "ssim")] == {("maps",), ("products",), ("scores", "range")}
    assert edges[("products", "pairs")] >= {("products", "tile"), ("products", "panels")}
    order = list(TopologicalSorter(edges).static_order())
    assert len(order) == len(edges)

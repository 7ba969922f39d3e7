"""The rooms of `cfp_cli` form layers: a module imports only from its own room and from rooms before it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import cfp_cli

PACKAGE = Path(cfp_cli.__file__).parent
# The order in which data flow, as CONTRIBUTING.md has it.
ROOMS = (
    "foundation",
    "execution",
    "data",
    "models",
    "checkpoints",
    "measuring",
    "graph",
    "scoring",
    "pruning",
    "training",
    "comparing",
    "exporting",
    "report",
    "runs",
    "commands",
)
TOP = {"__init__", "__main__", "main"}


def imports(path: Path) -> Iterator[str]:
    """Modules of `cfp_cli` that a file imports, inside functions too; imports for type checkers only count as well."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "cfp_cli":
            module = PACKAGE.parent.joinpath(*node.module.split("."))
            for alias in node.names:
                found = f"{node.module}.{alias.name}"
                yield (
                    found
                    if PACKAGE.parent.joinpath(*found.split(".")).with_suffix(".py").is_file()
                    or (module / alias.name).is_dir()
                    else node.module
                )
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "cfp_cli")


def modules() -> dict[str, Path]:
    """Files of the package by module name."""
    return {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))
    }


def test_every_room_is_in_the_order() -> None:
    found = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert found == set(ROOMS)
    assert {path.stem for path in PACKAGE.glob("*.py")} == TOP


def test_a_room_imports_only_from_rooms_before_it() -> None:
    upward = []
    for name, path in modules().items():
        room = name.split(".")[1]
        for imported in imports(path):
            target = [*imported.split("."), ""][1]
            if room in ROOMS and target and (target not in ROOMS or ROOMS.index(target) > ROOMS.index(room)):
                upward.append(f"{name} imports {imported}")
    assert upward == []


def test_files_import_in_no_circle() -> None:
    known = modules()
    graph = {name: {each for each in imports(path) if each in known and each != name} for name, path in known.items()}
    order = list(TopologicalSorter(graph).static_order())
    assert len(order) == len(known)

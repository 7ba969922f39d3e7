"""The files and names in CONTRIBUTING.md exist, and its table of folders has the order of the layers."""

from __future__ import annotations

import re

from reading import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "cfp_cli"
DEFINITION = r"\b(?:def|class|fn|struct|enum) {0}\b|^ *{0}\b.*="


def references() -> list[tuple[str, str]]:
    """Each path on the page with the name behind its colon, or an empty name."""
    found = re.findall(r"`([\w./-]+?(?:/|\.(?:py|rs|pyi|md|toml)))(?::(\w+))?`", PAGE)
    return [(path, name) for path, name in found if path != "cfp_cli/"]


def test_every_path_and_name_exists() -> None:
    missing = []
    for path, name in references():
        file = next((root / path for root in (PACKAGE, ROOT) if (root / path).exists()), None)
        if file is None:
            missing.append(path)
        elif name and not re.search(DEFINITION.format(name), file.read_text(encoding="utf-8"), re.MULTILINE):
            missing.append(f"{path}:{name}")
    assert len(references()) > 50
    assert missing == []


def test_the_folders_are_in_the_order_of_the_layers() -> None:
    table = PAGE.split("## Where things are")[1].split("Beside the package")[0]
    rooms = re.findall(r"^\| `(\w+)/` \|", table, re.MULTILINE)
    layers = (ROOT / "tests" / "test_layers.py").read_text(encoding="utf-8")
    order = re.findall(r'"(\w+)"', layers.split("ROOMS = (")[1].split(")")[0])
    assert rooms == order
    assert {path.parent.name for path in (ROOT / "cfp_cli").glob("*/__init__.py")} == set(rooms)

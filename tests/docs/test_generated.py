"""The reference pages are up to date with the code and contain every command, option and public name."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import click
import pytest

import cfp_cli
from cfp_cli.commands.cli import cli

DOCS = Path(__file__).resolve().parents[2] / "docs"


def generator(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["generate_cli", "generate_python"])
def test_the_page_is_current(name: str) -> None:
    made = generator(name)
    current = made.PAGE.read_text(encoding="utf-8") == made.page()
    assert current, f"docs/{made.PAGE.name} is not current; run `python docs/{name}.py`"


def test_every_command_and_option_is_in_the_reference() -> None:
    page = (DOCS / "cli.md").read_text(encoding="utf-8")
    sections = {part.split("\n", 1)[0]: part for part in re.split(r"^## ", page, flags=re.MULTILINE)}

    def check(command: click.Command, name: str) -> None:
        if isinstance(command, click.Group):
            for child, each in command.commands.items():
                check(each, f"{name} {child}")
            return
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                for flag in (*parameter.opts, *parameter.secondary_opts):
                    assert f"`{flag}`" in sections[name], f"{name} {flag}"

    check(cli, "cfp")


def test_every_public_name_is_in_the_reference() -> None:
    headings = re.findall(r"^### (\w+)$", (DOCS / "python.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(headings) == sorted(cfp_cli.__all__)

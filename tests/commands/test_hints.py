"""An error names only options that the command has."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click

import cfp_cli
from cfp_cli.commands.cli import cli

# The option of an example in a docstring, and one of pip.
FOREIGN = {"--name", "--force-reinstall"}


def options(command: click.Command) -> set[str]:
    found = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    if isinstance(command, click.Group):
        found |= {flag for each in command.commands.values() for flag in options(each)}
    return found | {"--help", "--version"}


def test_every_option_in_the_library_exists() -> None:
    known = options(cli)
    for path in Path(cfp_cli.__file__).parent.rglob("*.py"):
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", path.read_text(encoding="utf-8")):
            assert flag in known | FOREIGN, f"{path} names {flag}"


def test_a_result_that_cannot_be_printed_is_one_line(tmp_path: Path) -> None:
    line = f"{sys.executable} -m cfp_cli completion bash"
    if sys.platform == "win32":
        return
    closed = subprocess.run(
        ["bash", "-c", f"{line} >/dev/full"],
        capture_output=True,
        text=True,
        env={**os.environ, "LC_ALL": "C"},
        check=False,
        cwd=tmp_path,
    )
    assert "Traceback" not in closed.stderr
    assert "this is a bug" not in closed.stderr

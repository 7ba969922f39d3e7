"""Defaults of options from `cfp.toml`, or from `[tool.cfp]` in `pyproject.toml`, in the current folder.

run = "runs/line-3"      # for every command that has this option

[score]
images = 320
"""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any

import click

from cfp_cli.foundation.errors import UsageError


def read_defaults(group: click.Group, folder: Path = Path()) -> dict[str, Any]:
    """Read the configuration file of a folder as click's `default_map`; empty without a file.

    Raises:
        UsageError: the file cannot be read, or names an unknown command or option.
    """
    path, content = _read(folder)
    if path is None:
        return {}
    known = {name: _options(command) for name, command in group.commands.items()}
    shared = {name: value for name, value in content.items() if not isinstance(value, dict)}
    defaults: dict[str, Any] = {name: {} for name in known}
    for name, value in shared.items():
        commands = [command for command, options in known.items() if _key(name) in options]
        if not commands:
            raise _unknown(path, "option", name, {option for options in known.values() for option in options})
        for command in commands:
            defaults[command][known[command][_key(name)]] = value
    for command, values in content.items():
        if not isinstance(values, dict):
            continue
        if command not in known:
            raise _unknown(path, "command", command, set(known))
        for name, value in values.items():
            if _key(name) not in known[command]:
                raise _unknown(path, f"option of {command}", name, set(known[command]))
            defaults[command][known[command][_key(name)]] = value
    return defaults


def _read(folder: Path) -> tuple[Path | None, dict[str, Any]]:
    for path, keys in ((folder / "cfp.toml", ()), (folder / "pyproject.toml", ("tool", "cfp"))):
        if not path.is_file():
            continue
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} is not readable TOML ({error}); correct or remove it") from error
        for key in keys:
            content = content.get(key, {})
        if content:
            return path, content
    return None, {}


def _options(command: click.Command) -> dict[str, str]:
    """Return parameter names by option name, without the leading dashes."""
    return {
        _key(flag.lstrip("-")): str(parameter.name)
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for flag in (*parameter.opts, *parameter.secondary_opts)
        if flag.startswith("--")
    }


def _key(name: str) -> str:
    return name.replace("_", "-")


def _unknown(path: Path, what: str, name: str, known: set[str]) -> UsageError:
    close = difflib.get_close_matches(_key(name), sorted(known), 1)
    hint = f"did you mean '{close[0]}'" if close else "see `cfp --help`"
    return UsageError(f"{path} names an unknown {what} '{name}'; {hint}")

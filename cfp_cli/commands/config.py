"""Defaults of options from `cfp.toml`, or from `[tool.cfp]` in `pyproject.toml`, in the current folder.

run = "runs/line-3"      # for every command that has this option

[score]
images = 320

[data.split]
layout = "neu"
"""

from __future__ import annotations

import difflib
import math
import tomllib
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from cfp_cli.foundation.errors import CfpError, UsageError
from cfp_cli.foundation.naming import name_some
from cfp_cli.foundation.typed_json import quoted


def read_defaults(group: click.Group, folder: Path = Path()) -> dict[str, Any]:
    """Read the configuration file of a folder as click's `default_map`; empty without a file.

    Raises:
        UsageError: the file cannot be read, names an unknown command or option, or holds a wrong value.
    """
    path, content = _read(folder)
    return {} if path is None else _defaults(group, content, path, ())


def name_source(ctx: click.Context, error: CfpError, folder: Path = Path()) -> None:
    """Add to the error of a command which of the options in its message a configuration file sets.

    Args:
        ctx: the context of the command.
        error: its error.
        folder: the folder of the file.
    """
    message, names = str(error), []
    for parameter in ctx.command.params:
        name = str(parameter.name)
        if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT_MAP:
            continue
        option, value = max(parameter.opts, key=len), ctx.params.get(name)
        texts = [
            str(each) for each in (value if isinstance(value, tuple) else (value,)) if isinstance(each, str | Path)
        ]
        if (
            option in message
            or f"{option.lstrip('-')} {value}" in message
            or any((each if len(each) > 2 else f"'{each}'") in message for each in texts)
        ):
            names.append(option.lstrip("-"))
    path, _ = _read(folder)
    if names and path is not None and path.name not in message:
        error.args = (f"{message} ({path} sets {name_some(names)})",)


def _defaults(group: click.Group, content: dict[str, Any], path: Path, parents: tuple[str, ...]) -> dict[str, Any]:
    """Return the defaults of the commands of a group. A value beside the tables is for each command that has it.

    Args:
        group: the group.
        content: the table of the group.
        path: the file, for messages.
        parents: names of the group and of the groups around it; empty for the whole file.
    """
    defaults: dict[str, Any] = {name: {} for name in group.commands}
    tables = {name: value for name, value in content.items() if isinstance(value, dict)}
    shared = {name: value for name, value in content.items() if not isinstance(value, dict)}
    for name in (name for name in tables if name not in group.commands):
        raise _unknown(path, " ".join(("command", *(("of", *parents) if parents else ()))), name, set(group.commands))
    for name in shared:
        known = {option for command in group.commands.values() for option in _all_options(command)}
        if _key(name) not in known:
            raise _unknown(path, " ".join(("option", *(("of", *parents) if parents else ()))), name, known)
    for name, command in group.commands.items():
        table = {**{each: value for each, value in shared.items() if _key(each) in _all_options(command)}}
        table |= tables.get(name, {})
        if isinstance(command, click.Group):
            defaults[name] = _defaults(command, table, path, (*parents, name))
            continue
        options = _options(command)
        for option, value in table.items():
            where = ".".join((*parents, name, option)) if option in tables.get(name, {}) else option
            if _key(option) not in options:
                raise _unknown(path, f"option of {' '.join((*parents, name))}", option, set(options))
            parameter = options[_key(option)]
            defaults[name][str(parameter.name)] = _value(parameter, _key(option), value, f"{path}: {where}")
    return defaults


def _value(parameter: click.Option, option: str, value: Any, where: str) -> Any:
    """Check the type of a value and return the default of the parameter.

    Raises:
        UsageError: the value is of another type or out of range, or would allow code to run.
    """
    if parameter.is_flag:
        if not isinstance(value, bool):
            raise UsageError(f"{where} is {quoted(value)}, not true or false; correct the file")
        if parameter.name == "unsafe_pickle" and value:
            raise UsageError(f"{where} would allow code to run, which a file must not do; pass --{option} instead")
        return value == (f"--{option}" not in parameter.secondary_opts)
    several = parameter.multiple or parameter.nargs != 1
    for each in value if several and isinstance(value, list) else [value]:
        _check(parameter, each, where)
    if parameter.name == "arch":
        # Importing torch takes a second, which other configuration files do not need.
        from cfp_cli.models.registry import is_factory_file

        if not is_factory_file(value):
            return value
        raise UsageError(f"{where} names Python code, which a file must not run; pass --{option} {value} instead")
    return [value] if several and not isinstance(value, list) else value


def _check(parameter: click.Option, value: Any, where: str) -> None:
    # Some options take a number or one word.
    if isinstance(value, str) and value == getattr(parameter.type, "word", None):
        return
    number = isinstance(parameter.type, click.types.IntParamType | click.types.FloatParamType)
    if number and (not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value)):
        raise UsageError(f"{where} is {quoted(value)}, not a number; correct the file")
    if isinstance(parameter.type, click.types.IntParamType) and not isinstance(value, int):
        raise UsageError(f"{where} is {quoted(value)}, not an integer; correct the file")
    if not number and (not isinstance(value, str) or "\0" in value):
        raise UsageError(f"{where} is {quoted(value)}, not text; correct the file")
    # Whether a path exists matters only to the command that uses it.
    if isinstance(parameter.type, click.Path):
        return
    try:
        parameter.type.convert(value, parameter, None)
    except click.UsageError as error:
        raise UsageError(f"{where}: {error.message.rstrip('.')}; correct the file") from error


def _read(folder: Path) -> tuple[Path | None, dict[str, Any]]:
    for path, keys in ((folder / "cfp.toml", ()), (folder / "pyproject.toml", ("tool", "cfp"))):
        if not path.is_file():
            continue
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise UsageError(f"{path} is not readable TOML ({error}); correct or remove it") from error
        for key in keys:
            content = content.get(key, {})
            if not isinstance(content, dict):
                raise UsageError(f"{path}: {key} is {quoted(content)}, not a table; correct the file")
        if content:
            return path, content
    return None, {}


def _all_options(command: click.Command) -> set[str]:
    """Return the option names of a command, or of all commands of a group."""
    if isinstance(command, click.Group):
        return {option for each in command.commands.values() for option in _all_options(each)}
    return set(_options(command))


def _options(command: click.Command) -> dict[str, click.Option]:
    """Return the options of a command by name, without the leading dashes."""
    return {
        _key(flag.lstrip("-")): parameter
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
    return UsageError(f"{path} names an unknown {what} {quoted(name)}; {hint}")

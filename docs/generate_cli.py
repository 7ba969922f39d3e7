"""Write docs/cli.md from the commands.

python docs/generate_cli.py             # write the page
python docs/generate_cli.py --check     # exit 1 if the page is not up to date
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from cfp_cli.commands.cli import cli

PAGE = Path(__file__).resolve().parent / "cli.md"

HEAD = """\
# Command line

Generated from the commands by `python docs/generate_cli.py`; do not edit.

Commands print results to stdout and everything else to stderr. With `--json`, stdout contains one JSON value and
nothing else. An error is one line, `error: what is wrong; what to do`; `--debug` also prints its traceback. If the
output is not a terminal, commands print no control characters. Set `NO_COLOR` to turn colours off.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failed; the message explains why |
| 2 | wrong usage |
| 3 | the target cannot be met |
| 130 | interrupted; finished stages and the state of a training are kept |

Set your own defaults in `cfp.toml`, or under `[tool.cfp]` in `pyproject.toml`, in the current folder. An option at
the top applies to every command that has it. An option in a table applies to the command of that name:
```toml
run = "runs/line-3"

[score]
images = 320
```

`--help` prints the same text as this page. `cfp --version` prints the versions of cfp, its core and torch.
"""


def page() -> str:
    """Return the text of the page."""
    commands = list(_walk(cli, "cfp"))
    parts = [HEAD, "| command | what it does |\n|---|---|"]
    parts += [f"| [`{name}`](#{_anchor(name)}) | {_cell(_summary(command))} |" for name, command in commands]
    head = "\n".join(parts) + "\n"
    return "\n".join([head, *(_section(name, command) for name, command in commands)])


def _walk(group: click.Group, prefix: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _walk(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def _section(name: str, command: click.Command) -> str:
    arguments = [parameter for parameter in command.params if isinstance(parameter, click.Argument)]
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    usage = " ".join([name, "[OPTIONS]", *map(_argument, arguments)])
    lines = [f"## {name}", f"```text\n{usage}\n```", _text(command)]
    examples = [
        line.strip() for line in (command.epilog or "").splitlines() if line.strip().startswith(("cfp ", "eval "))
    ]
    if examples:
        lines += ["```console", *(f"$ {line}" for line in examples), "```"]
    lines += ["| option | default | meaning |", "|---|---|---|", *map(_row, options)]
    return "\n".join(lines) + "\n"


def _argument(argument: click.Argument) -> str:
    word = argument.metavar or (argument.name or "").upper()
    return word if argument.required else f"[{word}]"


def _row(option: click.Option) -> str:
    names = ", ".join(f"`{flag}`" for flag in (*option.opts, *option.secondary_opts))
    value = _value(option)
    help_text, _ = _help_and_default(option)
    if option.multiple and "Repeatable" not in help_text:
        help_text += " Repeatable."
    if option.envvar:
        help_text += f" Also from the environment as `{option.envvar}`."
    return f"| {names}{f' {_cell(value)}' if value else ''} | {_default(option)} | {_cell(help_text)} |"


def _value(option: click.Option) -> str:
    """The type of the option's value, in words that do not depend on the version of click."""
    if option.is_flag:
        return ""
    if option.metavar:
        return option.metavar
    kind = option.type
    if isinstance(kind, click.Choice):
        return "|".join(map(str, kind.choices))
    if isinstance(kind, click.IntRange | click.FloatRange):
        word = "INTEGER" if isinstance(kind, click.IntRange) else "NUMBER"
        low = f" from {kind.min}" if kind.min is not None else ""
        return word + low + (f" to {kind.max}" if kind.max is not None else "")
    if isinstance(kind, click.Path):
        return "PATH"
    return {"integer": "INTEGER", "float": "NUMBER"}.get(kind.name, "TEXT")


def _default(option: click.Option) -> str:
    if option.required:
        return "required"
    stated = _help_and_default(option)[1]
    if stated:
        return stated
    if isinstance(option.show_default, str):
        return option.show_default
    value = option.default
    if not option.show_default or value is None:
        return ""
    if option.is_flag and isinstance(value, bool):
        return f"`{(option.opts if value or not option.secondary_opts else option.secondary_opts)[0]}`"
    return f"`{value}`"


def _help_and_default(option: click.Option) -> tuple[str, str]:
    """The help text of an option without its `[default: ...]`, and that default or an empty string."""
    found = re.search(r"\s*\[default: (.*)\]", option.help or "")
    return (option.help or "", "") if found is None else ((option.help or "").replace(found[0], ""), found[1])


def _text(command: click.Command) -> str:
    text = (command.help or "").replace("\b", "").strip()
    return "\n".join(line.strip() for line in text.splitlines()) + "\n"


def _summary(command: click.Command) -> str:
    return command.get_short_help_str(200)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _anchor(name: str) -> str:
    return name.replace(" ", "-")


def main() -> int:
    """Write or check the page."""
    text = page()
    if "--check" in sys.argv[1:]:
        return int(not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What a file may ask for: the code of a `FILE.py:FACTORY` runs only if the user names it, not because a file does."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cfp_cli.foundation.errors import CheckpointError
from cfp_cli.foundation.typed_json import FieldError, quoted
from cfp_cli.models.registry import is_factory_file

# Arguments of these names download weights, whatever their value.
_DOWNLOADS = re.compile(r"pretrain|download", re.IGNORECASE)
# Text in arguments of these names is read as a file or an address. A number is harmless, such as `drop_path_rate`.
_READS = re.compile(r"checkpoint|weight|path|file|dir|url|hub|cache|load", re.IGNORECASE)
# Numbers are widths, depths and sizes, of which larger ones would take all memory or all time.
_MAX_NUMBER = 2**16
_MAX_VALUES = 4096
_WORD = re.compile(r"[A-Za-z0-9_-]{1,64}")


def permitted_arch(stored: str, given: str | None, path: Path) -> str:
    """Return the architecture of a file that names it.

    The code of a factory file runs only if the user names a factory file too, of the same name and with the same
    function. The file that the user names is then the one that runs, so that it may have been moved.

    Args:
        stored: the architecture that the file names.
        given: the architecture that the user passed, or None.
        path: the file that names it, for the message.

    Raises:
        CheckpointError: the file names a factory file that the user did not name.
    """
    if not is_factory_file(stored):
        return stored
    if given is not None and is_factory_file(given) and _factory_name(stored) == _factory_name(given):
        return given
    raise CheckpointError(
        f"{path} names the Python code '{stored}' as its architecture, and code that a file names is not run; "
        f"pass --arch {stored} if you trust that code"
    )


def _factory_name(arch: str) -> tuple[str, str]:
    file, _, function = arch.rpartition(":")
    return Path(file.replace("\\", "/")).name, function


def require_plain_arguments(arguments: Mapping[str, Any]) -> None:
    """Check arguments of an architecture that come from a file: they must not make its constructor read files.

    Raises:
        FieldError: an argument loads files, there are too many, or a value is not a number of limited size, a plain
            word, None, or a list or dict of these.
    """
    _require_plain(dict(arguments), "arch_kwargs")
    if _count(dict(arguments)) > _MAX_VALUES:
        raise FieldError(f"arch_kwargs has more than {_MAX_VALUES} values")


def _count(value: object) -> int:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return 1 + sum(map(_count, children))


def _require_plain(value: object, field: str) -> None:
    if isinstance(value, dict):
        for name, each in value.items():
            number = each is None or isinstance(each, bool | int | float)
            if not isinstance(name, str) or _DOWNLOADS.search(name) or (_READS.search(name) and not number):
                raise FieldError(f"{field}.{name} makes the architecture load files, which a checkpoint must not do")
            _require_plain(each, f"{field}.{name}")
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            _require_plain(each, f"{field}[{index}]")
    elif isinstance(value, str):
        if not _WORD.fullmatch(value):
            raise FieldError(f"{field} is {value[:40]!r}, not a plain word of letters, digits, '_' and '-'")
    elif isinstance(value, int | float):
        if not (math.isfinite(value) and abs(value) <= _MAX_NUMBER):
            raise FieldError(f"{field} is {quoted(value)}, not a number from -{_MAX_NUMBER} to {_MAX_NUMBER}")
    elif value is not None:
        raise FieldError(f"{field} is a {type(value).__name__}, not a number or a plain word")

"""Convert dataclasses to JSON and back. Each field is checked.

`read` raises an error that names the file and the field, if a field is missing, unknown, of the wrong type, NaN or
infinite.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from cfp_cli.foundation.errors import CfpError

T = TypeVar("T")

_NAMES = {str: "text", int: "an integer", float: "a number", bool: "true or false", Path: "a path", type(None): "null"}


class FieldError(ValueError):
    """A field of a JSON file is wrong; the message names the field."""


def read(kind: type[T], value: object, file: Path, field: str, error: type[CfpError], advice: str) -> T:
    """Build a dataclass from decoded JSON.

    Args:
        kind: the dataclass; its type hints are the required types.
        value: the decoded JSON.
        file: file that the JSON comes from, for messages.
        field: path of the value in the file, such as `records[2]`; empty for the whole file.
        error: class of the error.
        advice: the end of each message, which says what to do.

    Raises:
        CfpError: a field is missing, unknown or wrong; of the class `error`.
    """
    try:
        return typing.cast(T, convert(kind, value, field))
    except FieldError as problem:
        raise error(f"{file}: {problem}; {advice}") from problem
    except RecursionError as problem:
        raise error(f"{file}: {field or 'the content'} is nested too deeply; {advice}") from problem


def to_json(value: Any) -> Any:
    """Return plain data for `json.dumps`: dataclasses become objects, tuples become lists, paths become text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): to_json(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def convert(kind: Any, value: object, field: str) -> Any:
    """Convert decoded JSON to a type: a dataclass, tuple, dict, Literal, union, Path, number, text, bool or Any.

    Raises:
        FieldError: the value does not have the type.
    """
    origin = get_origin(kind)
    if kind is Any:
        _require_finite(value, field)
        return value
    if dataclasses.is_dataclass(kind):
        return _dataclass(typing.cast(type, kind), value, field)
    if origin in (Union, types.UnionType):
        others = [each for each in get_args(kind) if each is not type(None)]
        if value is None and len(others) < len(get_args(kind)):
            return None
        return convert(others[0], value, field)
    if origin is Literal:
        if value not in get_args(kind):
            raise FieldError(f"{field} is {quoted(value)}, not one of {', '.join(map(str, get_args(kind)))}")
        return value
    if origin is tuple:
        return _tuple(get_args(kind), value, field)
    if origin in (dict, Mapping):
        if not isinstance(value, dict):
            raise FieldError(f"{field} is {quoted(value)}, not an object")
        inner = get_args(kind)[1]
        return {name: convert(inner, each, f"{field}.{_name(name)}") for name, each in value.items()}
    return _plain(kind, value, field)


def require_int64(value: object, field: str) -> None:
    """Check that no integer in decoded JSON is too large for an array.

    Raises:
        FieldError: an integer needs more than 64 bits.
    """
    if type(value) is int and not -(2**63) <= value < 2**63:
        raise FieldError(f"{field} is {quoted(value)}, which needs more than 64 bits")
    if isinstance(value, dict):
        for name, each in value.items():
            require_int64(each, f"{field}.{_name(name)}".removeprefix("."))
    if isinstance(value, list):
        for index, each in enumerate(value):
            require_int64(each, f"{field}[{index}]")


def _dataclass(kind: type, value: object, field: str) -> Any:
    if not isinstance(value, dict):
        raise FieldError(f"{field or 'the content'} is {quoted(value)}, not an object")
    hints = typing.get_type_hints(kind)
    fields = {each.name: each for each in dataclasses.fields(kind)}
    prefix = f"{field}." if field else ""
    for name in value:
        if name not in fields:
            raise FieldError(f"unknown field {prefix}{_name(name)}; this version of cfp does not have it")
    arguments = {}
    for name, each in fields.items():
        if name in value:
            arguments[name] = convert(hints[name], value[name], f"{prefix}{name}")
        elif each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING:
            raise FieldError(f"{prefix}{name} is missing")
    try:
        return kind(**arguments)
    except FieldError as error:
        raise FieldError(f"{prefix}{error}") from error


def _tuple(kinds: tuple[Any, ...], value: object, field: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise FieldError(f"{field} is {quoted(value)}, not a list")
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(value) != len(kinds):
        raise FieldError(f"{field} has {len(value)} values, not {len(kinds)}")
    return tuple(
        convert(kind, each, f"{field}[{index}]") for index, (kind, each) in enumerate(zip(kinds, value, strict=True))
    )


def _plain(kind: Any, value: object, field: str) -> Any:
    if kind is float and type(value) in (int, float):
        _require_finite(value, field)
        try:
            return float(typing.cast(float, value))
        except OverflowError as error:
            raise FieldError(f"{field} is too large for a number") from error
    if kind is Path and isinstance(value, str):
        if not value or "\0" in value:
            raise FieldError(f"{field} is {quoted(value)}, not a path")
        return Path(value)
    # In Python a bool is an int; in JSON it is not.
    if type(value) is not kind:
        raise FieldError(f"{field} is {quoted(value)}, not {_NAMES[kind]}")
    return value


def _require_finite(value: object, field: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise FieldError(f"{field} is {value}, not a finite number")
    if isinstance(value, dict):
        for name, each in value.items():
            _require_finite(each, f"{field}.{_name(name)}")
    if isinstance(value, list):
        for index, each in enumerate(value):
            _require_finite(each, f"{field}[{index}]")


def _name(name: object) -> str:
    """Return the name of a field as it is, or quoted if it is long or no plain word."""
    text = str(name)
    return text if len(text) <= 40 and text.isascii() and text.isprintable() else quoted(name)


def quoted(value: object) -> str:
    """Return a value as one short line for a message."""
    try:
        text = str(value).lower() if isinstance(value, bool) else "null" if value is None else ascii(value)
    except ValueError:
        # Python does not print integers of more than 4,300 digits.
        return f"a huge {type(value).__name__}"
    return text if len(text) <= 40 else f"{text[:37]}..."

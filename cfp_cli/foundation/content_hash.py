"""The hash that a file of this tool stores of its own content, so that damage is detected when the file is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from cfp_cli.foundation.errors import CfpError
from cfp_cli.foundation.files import write_json

KEY = "content_sha256"
MISMATCH = "is damaged: its content does not match its hash"


class Array(NamedTuple):
    """A named array: its type and shape in any fixed notation, and its bytes as a buffer."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    content: Any


def hash_content(data: object, arrays: Iterable[Array] = ()) -> str:
    """Return the SHA-256 of plain data and arrays, in hex.

    Args:
        data: what `json.dumps` accepts; the order of names in an object does not matter.
        arrays: named arrays, always in the same order.

    Raises:
        TypeError, ValueError, RecursionError: the data are not plain data.
    """
    digest = hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode())
    for each in arrays:
        digest.update(f"{each.name}\0{each.dtype}\0{tuple(each.shape)}\0".encode())
        digest.update(each.content)
    return digest.hexdigest()


def write_hashed_json(path: Path, content: dict[str, Any]) -> None:
    """Write an object with the hash of its content as indented JSON, atomically."""
    plain = json.loads(json.dumps(content, allow_nan=False))
    write_json(path, {**plain, KEY: hash_content(plain)})


def read_hashed_json(path: Path, error: type[CfpError], advice: str, *, editable: bool = True) -> Any:
    """Read what `write_hashed_json` wrote, without the hash.

    The caller checks all fields.

    Args:
        path: the file.
        error: class of the error.
        advice: the end of each message, which says what to do.
        editable: accept a file without a hash: a user who edits a file removes the hash.

    Raises:
        CfpError: the file cannot be read or does not match its hash; of the class `error`.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        raise error(f"{path} cannot be read ({problem}); {advice}") from problem
    if not isinstance(content, dict) or KEY not in content:
        if not editable:
            raise error(f"{path} has no hash of its content, so its measurements may be of another machine; {advice}")
        return content
    stored = content.pop(KEY)
    try:
        intact = hash_content(content) == stored
    except RecursionError:
        intact = False
    if not intact:
        edited = f"; if you edited it, delete its field {KEY}" if editable else ""
        raise error(f"{path} {MISMATCH}; {advice}{edited}")
    return content

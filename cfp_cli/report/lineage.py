"""The lineage of a network in words: how it was made, stage by stage."""

from __future__ import annotations

import re
from collections.abc import Mapping

from cfp_cli.report.text import percent, plain

_NAMES = {
    "from": "made from the file with SHA-256",
    "data": "SHA-256 of the list of images",
    "compression": "parameters",
    "achieved": "removed",
}
# A lineage names a teacher by a hash of its weights, but the list of files has the hash of its file. Two hashes of one
# teacher would confuse.
_TEACHER = re.compile(r"teacher_\d+")


def entry_facts(entry: Mapping[str, object]) -> list[tuple[str, str]]:
    """Return the facts of an entry of a lineage as names and values in words, without its stage and its teachers."""
    return [
        (_NAMES.get(name, name.replace("_", " ")), _value(name, value))
        for name, value in entry.items()
        if name != "stage" and not _TEACHER.fullmatch(name)
    ]


def _value(name: str, value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        if name == "compression":
            return f"{value:.1f} times fewer"
        if name == "achieved":
            return percent(value)
    return plain(value)

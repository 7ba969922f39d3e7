"""A limit for nested data from a pickle.

A pickle can store a list that contains another one twice, which does so too. Such a file is small, but each function
that visits all of its parts, such as one that prints or hashes them, would take exponential time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cfp_cli.checkpoints.pickle_data import Opaque

_MAX_DEPTH = 200
# Parts that are visited again, for each part that is stored.
_MAX_REPEATS = 10
_FREE_PARTS = 1_000_000


def require_plain_tree(content: Any) -> None:
    """Check that nested dicts, lists, tuples and sets are neither deep nor much larger when written out.

    Args:
        content: plain data, tensors, `Name` and `Opaque`; other objects have no parts.

    Raises:
        ValueError: they are.
    """
    # Parts and depth of each container, by identity; -1 parts while its own parts are counted.
    known: dict[int, tuple[int, int]] = {}
    stored = 0
    waiting: list[tuple[Any, bool]] = [(content, False)]
    while waiting:
        node, counted = waiting.pop()
        if not counted:
            if id(node) in known or not _has_parts(node):
                continue
            known[id(node)] = (-1, 0)
            waiting.append((node, True))
            waiting.extend((each, False) for each in _parts(node) if _has_parts(each))
            continue
        size, depth = 1, 0
        for each in _parts(node):
            stored += 1
            # A container that contains itself is counted as one part there.
            parts, below = known.get(id(each), (1, 0))
            size += max(parts, 1)
            depth = max(depth, below)
        if depth >= _MAX_DEPTH:
            raise ValueError(f"its data are nested in more than {_MAX_DEPTH} levels")
        # Programs nest objects as deep as they like, and nothing visits these recursively.
        known[id(node)] = (size, 0 if isinstance(node, Opaque) else depth + 1)
    if known.get(id(content), (1, 0))[0] > _MAX_REPEATS * stored + _FREE_PARTS:
        raise ValueError("its data contain the same parts again and again")


def _has_parts(node: Any) -> bool:
    return isinstance(node, Mapping | list | tuple | set | frozenset | Opaque)


def _parts(node: Any) -> Iterator[Any]:
    if isinstance(node, Opaque):
        yield from (node.arguments, node.state, node.items, node.elements)
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield key
            yield value
    else:
        yield from node

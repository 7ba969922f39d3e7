"""Names in messages: a dataset may have thousands of classes, and a message is one line."""

from __future__ import annotations

from collections.abc import Sequence


def name_some(names: Sequence[str], limit: int = 10) -> str:
    """Return the first names and the number of the others, such as `a, b and 3 more`.

    Args:
        names: the names.
        limit: largest number of names to return.
    """
    left_out = len(names) - limit
    return ", ".join(names) if left_out <= 0 else f"{', '.join(names[:limit])} and {left_out} more"

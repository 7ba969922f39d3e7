"""How many channels a set keeps, and how its clusters share that number."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def kept_count(size: int, keep: float, minimum: int = 1, multiple: int = 1) -> int:
    """Channels that a set of `size` keeps at the fraction `keep`, in [min(minimum, size), size].

    With `multiple` > 1 it is the nearest multiple from `minimum` to `size`. A set smaller than `multiple` keeps all its
    channels, and so does one with `keep` 1.
    """
    count = round(keep * size)
    if multiple > 1:
        if size < multiple or keep >= 1:
            return size
        lowest = -(-max(minimum, 1) // multiple) * multiple
        count = max(multiple * round(keep * size / multiple), lowest)
        if count > size:
            count = size // multiple * multiple
    return min(max(count, minimum, 1), size)


def shares(count: int, sizes: NDArray[np.integer]) -> NDArray[np.int64]:
    """Share `count` kept channels over clusters in proportion to their sizes, by largest remainder.

    Every cluster keeps at least one channel. Where `count` is too small for that, the larger clusters keep one each. No
    cluster keeps more than it has. Of equal remainders, the lower cluster comes first.

    Raises:
        ValueError: `count` is not between 1 and the number of channels.
    """
    sizes = np.asarray(sizes, np.int64)
    total = int(sizes.sum())
    if not 1 <= count <= total:
        raise ValueError(f"cannot keep {count} of {total} channels")
    if count <= len(sizes):
        given = np.zeros(len(sizes), np.int64)
        given[np.argsort(-sizes, kind="stable")[:count]] = 1
        return given
    exact = count * sizes / total
    given = np.maximum(np.floor(exact + 1e-9).astype(np.int64), 1)
    while given.sum() != count:
        lack = int(count - given.sum())
        remainder = exact - given
        if lack > 0:
            remainder[given >= sizes] = -np.inf
            given[np.argmax(remainder)] += 1
        else:
            # Small clusters got their first channel above their share: take it from the clusters most above theirs.
            remainder[given <= 1] = np.inf
            given[np.argmin(remainder)] -= 1
    return given

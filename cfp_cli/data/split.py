"""Seeded, stratified splits. Each class is divided on its own, independently of the other classes."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def split_counts(count: int, fractions: Mapping[str, float]) -> dict[str, int]:
    """Return how many of the `count` images of a class each new split takes.

    Each fraction refers to all `count` images and is rounded half up. If the class has more images than there are new
    splits, each split takes at least one image and at least one image remains.
    """
    counts = {name: int(count * fraction + 0.5) for name, fraction in fractions.items()}
    if count > len(fractions):
        counts = {name: max(1, each) for name, each in counts.items()}
    while sum(counts.values()) >= max(count, 1) and any(counts.values()):
        largest = max(counts, key=lambda name: counts[name])
        counts[largest] -= 1
    return counts


def divide(
    images: Mapping[str, Sequence[T]], fractions: Mapping[str, float], seed: int
) -> tuple[dict[str, list[T]], dict[str, dict[str, list[T]]]]:
    """Move random images of each class to new splits.

    Args:
        images: the images of each class, in an order that does not depend on the file system.
        fractions: fraction of each class that each new split takes.
        seed: seed of the choice. The choice depends on the seed, the class name and the number of images only.

    Returns:
        The remaining images by class, and the images of each new split by class, in their original order.
    """
    remaining: dict[str, list[T]] = {}
    new: dict[str, dict[str, list[T]]] = {name: {} for name in fractions}
    for label, members in images.items():
        order = np.random.default_rng([seed, zlib.crc32(label.encode())]).permutation(len(members))
        start = 0
        for name, count in split_counts(len(members), fractions).items():
            new[name][label] = [members[index] for index in np.sort(order[start : start + count])]
            start += count
        remaining[label] = [members[index] for index in np.sort(order[start:])]
    return remaining, new

"""Seeded, stratified splits: every class is divided on its own, whatever the other classes hold."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def shares(count: int, fractions: Mapping[str, float]) -> dict[str, int]:
    """How many of a class's `count` images each made split takes; the rest stay.

    Each fraction is of all `count` images and rounded half up. A split takes at least one image, and one stays, where
    the class has more images than there are made splits.
    """
    wanted = {name: int(count * fraction + 0.5) for name, fraction in fractions.items()}
    if count > len(fractions):
        wanted = {name: max(1, share) for name, share in wanted.items()}
    while sum(wanted.values()) >= max(count, 1) and any(wanted.values()):
        largest = max(wanted, key=lambda name: wanted[name])
        wanted[largest] -= 1
    return wanted


def divide(
    images: Mapping[str, Sequence[T]], fractions: Mapping[str, float], seed: int
) -> tuple[dict[str, list[T]], dict[str, dict[str, list[T]]]]:
    """Take made splits out of each class at random, reproducibly.

    Args:
        images: the images of each class, in an order that does not depend on the file system.
        fractions: fraction of a class that each made split takes.
        seed: draws the same images for the same seed, class name and number of images.

    Returns:
        What stays of each class, and for each made split what it takes of each class; orders are kept.
    """
    stays: dict[str, list[T]] = {}
    made: dict[str, dict[str, list[T]]] = {name: {} for name in fractions}
    for label, members in images.items():
        order = np.random.default_rng([seed, zlib.crc32(label.encode())]).permutation(len(members))
        start = 0
        for name, share in shares(len(members), fractions).items():
            made[name][label] = [members[index] for index in np.sort(order[start : start + share])]
            start += share
        stays[label] = [members[index] for index in np.sort(order[start:])]
    return stays, made

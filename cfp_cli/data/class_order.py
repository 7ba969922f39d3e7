"""The order of classes, which is the order of the logits of a network that is trained on them."""

from __future__ import annotations

from collections.abc import Collection


def class_order(names: Collection[str]) -> tuple[str, ...]:
    """Sort class names: as numbers where all are whole numbers, else as text.

    Folders and lists have the same order. torchvision's ImageFolder sorts numbers as text: 0, 1, 10, 11, 2.
    """
    if all_numbers(names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def all_numbers(names: Collection[str]) -> bool:
    """Return whether all class names are whole numbers."""
    return all(name.isascii() and name.isdigit() for name in names)


def differs_from_text_order(names: Collection[str]) -> bool:
    """Return whether ImageFolder, which sorts class names as text, has another order than `class_order`."""
    return class_order(names) != tuple(sorted(names))

"""Stratified folds for cross-validation."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np

from cfp_cli.data.dataset import Dataset, Item
from cfp_cli.data.split import divide
from cfp_cli.foundation.errors import DataError


def stratified_folds(dataset: Dataset, count: int, seed: int, val_fraction: float = 0.15) -> tuple[Dataset, ...]:
    """Divide the images of a dataset into folds; each fold is the test split of one of the returned datasets.

    The images are those of `train` and `val`, and those of `test` if that split was made from `train`. A test split
    that the user keeps apart is not used. The images of each class are spread evenly: their numbers in two folds differ
    by at most one, as do the sizes of two folds. The validation split is made from the other folds.

    Args:
        dataset: the images.
        count: number of folds, 2 or more.
        seed: seed of the choice, which depends on the class name and the number of its images only.
        val_fraction: fraction of the images of the other folds that go to `val`.

    Raises:
        DataError: there are fewer images than folds, or a class has no images to train on in a fold.
    """
    used = [name for name in dataset.splits if name != "test" or dataset.is_made(name)]
    by_class: dict[str, list[Item]] = {name: [] for name in dataset.classes}
    for name in used:
        for item in dataset.splits[name]:
            by_class[dataset.classes[item.label]].append(item)
    fold_of: dict[Item, int] = {}
    for label, items in by_class.items():
        items.sort(key=lambda item: item.path)
        for index in np.random.default_rng([seed, zlib.crc32(label.encode()), count]).permutation(len(items)):
            # The next image goes to the next fold, across classes too, so that all folds get the same size.
            fold_of[items[index]] = len(fold_of) % count
    if len(fold_of) < count:
        raise DataError(f"{dataset.root} has {len(fold_of)} images, too few for {count} folds; pass a lower --folds")
    return tuple(_fold(dataset, by_class, fold_of, number, count, seed, val_fraction) for number in range(count))


def _fold(
    dataset: Dataset,
    by_class: dict[str, list[Item]],
    fold_of: dict[Item, int],
    number: int,
    count: int,
    seed: int,
    val_fraction: float,
) -> Dataset:
    others = {label: [item for item in items if fold_of[item] != number] for label, items in by_class.items()}
    empty = next((label for label, items in others.items() if by_class[label] and not items), None)
    if empty is not None:
        raise DataError(
            f"class '{empty}' has {len(by_class[empty])} images, so one of {count} folds has none to train on; "
            "add images of this class, or leave out --folds"
        )
    train, made = divide(others, {"val": val_fraction}, seed)
    test = [item for items in by_class.values() for item in items if fold_of[item] == number]
    origin = f"fold {number + 1} of {count}, seed {seed}"
    splits = {"train": _flat(train), "val": _flat(made["val"]), "test": tuple(test)}
    return replace(dataset, splits=splits, split_origin=dict.fromkeys(splits, origin))


def _flat(by_class: dict[str, list[Item]]) -> tuple[Item, ...]:
    return tuple(item for items in by_class.values() for item in items)

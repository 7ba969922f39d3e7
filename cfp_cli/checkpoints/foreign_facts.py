"""The classes and the preprocessing that files of other tools store, in their various forms."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from cfp_cli.checkpoints.pickle_data import Opaque
from cfp_cli.checkpoints.spec import MAX_SIDE

_CLASSES = ("classes", "class_names", "CLASSES", "names", "labels", "class_to_idx", "idx_to_class", "id2label")
_SIZES = ("input_size", "img_size", "image_size", "imgsz")
# Entries whose own entries describe the network: timm, mmpretrain, trainers.
_NESTED = (
    "pretrained_cfg",
    "default_cfg",
    "meta",
    "dataset_meta",
    "preprocess",
    "config",
    "hyper_parameters",
    "train_args",
    "args",
)
_PIXEL_SCALE = 255.0
_MAX_CHANNELS = 4


def foreign_facts(content: Mapping[str, Any], class_count: int) -> dict[str, Any]:
    """Return the usable data of a dict that another tool wrote, as fields of `ModelSpec`.

    These are `classes`, `input_size`, `mean` and `std`; never a pruning plan or arguments of its constructor.

    Args:
        content: the entries of the file.
        class_count: number of classes of the head. Lists of another length are no class names, except `classes`.
    """
    usable: dict[str, Any] = {}
    _add(usable, "classes", _classes(content.get("classes")))
    for entries in _described(content):
        for name in _CLASSES:
            names = _classes(entries.get(name))
            _add(usable, "classes", names if names is not None and len(names) == class_count else None)
        for name in _SIZES:
            _add(usable, "input_size", _size(entries.get(name)))
        mean, std = _numbers(entries.get("mean")), _numbers(entries.get("std"))
        if "mean" not in usable and mean and std and len(mean) == len(std) and all(value > 0 for value in std):
            # Some tools subtract from values in [0, 255].
            scale = _PIXEL_SCALE if max(*mean, *std) > 2 else 1.0
            usable["mean"], usable["std"] = [v / scale for v in mean], [v / scale for v in std]
    return usable


def _add(usable: dict[str, Any], field: str, value: Any) -> None:
    if value is not None and field not in usable:
        usable[field] = value


def _described(content: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield content
    for name in _NESTED:
        entries = content.get(name)
        if isinstance(entries, Opaque):
            entries = entries.items or entries.state
        if isinstance(entries, Mapping):
            yield entries
            if name == "meta" and isinstance(entries.get("dataset_meta"), Mapping):
                yield entries["dataset_meta"]


def _classes(value: Any) -> list[str] | None:
    """Read class names from a list, a dict from name to index, or a dict from index to name."""
    if isinstance(value, Mapping) and value:
        pairs = list(value.items())
        if all(type(index) is int for _, index in pairs):
            pairs = [(index, name) for name, index in pairs]
        try:
            ordered = sorted((int(index), name) for index, name in pairs)
        except (TypeError, ValueError):
            return None
        if [index for index, _ in ordered] != list(range(len(ordered))):
            return None
        value = [name for _, name in ordered]
    if isinstance(value, list | tuple) and value and all(type(each) in (str, int) for each in value):
        return _distinct([str(each) for each in value])
    return None


def _distinct(names: list[str]) -> list[str]:
    """Add the index to names that occur more than once, such as `crane` and `maillot` of ImageNet."""
    counts = Counter(names)
    return [f"{name} ({index})" if counts[name] > 1 else name for index, name in enumerate(names)]


def _size(value: Any) -> list[int] | None:
    """Read height and width from a side, a pair, or a triple with the channels first or last."""
    if not isinstance(value, list | tuple):
        value = [value]
    if not value or not all(type(each) in (int, float) and math.isfinite(each) for each in value):
        return None
    sides = [int(each) for each in value]
    if sides != list(value):
        return None
    if len(sides) == 3 and min(sides[0], sides[2]) <= _MAX_CHANNELS:
        sides = sides[1:] if sides[0] <= _MAX_CHANNELS else sides[:2]
    if len(sides) == 1:
        sides *= 2
    return sides if len(sides) == 2 and all(1 <= side <= MAX_SIDE for side in sides) else None


def _numbers(value: Any) -> list[float] | None:
    if isinstance(value, Tensor) and value.is_floating_point() and value.numel() <= 64:
        value = value.flatten().tolist()
    if isinstance(value, list | tuple) and value and all(type(each) in (int, float) for each in value):
        return [float(each) for each in value] if all(math.isfinite(each) for each in value) else None
    return None

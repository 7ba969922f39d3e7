"""List files: one `path label` line for each image, with the path relative to the folder of the list."""

from __future__ import annotations

import re
from pathlib import Path

from cfp_cli.data.class_order import all_numbers, class_order
from cfp_cli.foundation.errors import DataError
from cfp_cli.foundation.text_file import read_user_text

SPLITS = ("train", "val", "test")
# Between the columns of a table, which is no list file.
_SEPARATORS = re.compile(r"[,;|]")


def sibling_lists(path: Path) -> dict[str, Path]:
    """Return the lists of all splits that belong to the list `path`, by split.

    `train.txt` belongs to `val.txt` and `test.txt` of its folder, `train_imbalanced.txt` to `test_imbalanced.txt`.
    The result is empty for a list without the name of a split, or without a `train` list in its folder.
    """
    for split in SPLITS:
        if path.stem == split or path.stem.startswith((f"{split}_", f"{split}-", f"{split}.")):
            rest = path.name.removeprefix(split)
            lists = {name: path.with_name(name + rest) for name in SPLITS if path.with_name(name + rest).is_file()}
            return lists if "train" in lists else {}
    return {}


def read_list(path: Path) -> list[tuple[Path, str]]:
    """Return the (path, label) pairs of a list file, in its order.

    The label is the text after the last blank of a line, so paths may contain blanks. Empty lines are skipped.

    Raises:
        DataError: the file is not text, a line has no label, or the list is empty.
    """
    try:
        lines = read_user_text(path).splitlines()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is neither a folder nor a list file; pass a folder or a text file of `path label` lines"
        ) from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        parts = line.rsplit(maxsplit=1)
        if (len(parts) != 2 and _SEPARATORS.search(line)) or parts[0].endswith((",", ";")):
            raise DataError(
                f"{path} line {number} is '{line.strip()[:80]}'; separate path and label by a blank or a tab, not by "
                "commas, and leave out a header"
            )
        if len(parts) != 2:
            raise DataError(f"{path} line {number} is '{line.strip()[:80]}'; write it as `path label`")
        rows.append((path.parent / parts[0].strip(), parts[1]))
    if not rows:
        raise DataError(f"{path} lists no images; write one `path label` line per image")
    return rows


def class_names(labels: set[str], source: Path) -> tuple[str, ...]:
    """Return the classes of the labels of a list in their order, see `class_order`.

    Raises:
        DataError: class numbers have a gap, or the same number is written in two ways.
    """
    if not all_numbers(labels):
        return class_order(labels)
    numbers = {int(label) for label in labels}
    for number in range(max(numbers)):
        if number not in numbers:
            raise DataError(
                f"class {number} has no images in {source}; number the classes from 0 without gaps or use names"
            )
    if len(numbers) != len(labels):
        raise DataError(f"{source} writes a class number in two ways, such as 1 and 01; write each in one way")
    return class_order(labels)

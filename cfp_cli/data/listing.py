"""List files: one `path label` line per image, the path relative to the list's folder."""

from __future__ import annotations

from pathlib import Path

from cfp_cli.foundation.errors import DataError

SPLITS = ("train", "val", "test")


def sibling_lists(path: Path) -> dict[str, Path]:
    """The lists that belong together with `path`, by split.

    `train.txt` goes with `val.txt` and `test.txt` of its folder, `train_imbalanced.txt` with `test_imbalanced.txt`.
    A list that is named after no split, or has no `train` beside it, stands alone: the answer is then empty.
    """
    for split in SPLITS:
        if path.stem == split or path.stem.startswith((f"{split}_", f"{split}-", f"{split}.")):
            rest = path.name.removeprefix(split)
            found = {name: path.with_name(name + rest) for name in SPLITS if path.with_name(name + rest).is_file()}
            return found if "train" in found else {}
    return {}


def read_list(path: Path) -> list[tuple[Path, str]]:
    """The images of a list file with their labels as text, in its order.

    The label is what follows the last blank of a line, so paths may hold blanks. Empty lines are passed over.

    Raises:
        DataError: the file is not text, a line lacks its label, or there are no lines.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is neither a folder nor a list file; pass a folder or a text file of `path label` lines"
        ) from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        parts = line.rsplit(maxsplit=1)
        if len(parts) != 2:
            raise DataError(f"{path} line {number} is '{line.strip()[:80]}'; write it as `path label`")
        rows.append((path.parent / parts[0].strip(), parts[1]))
    if not rows:
        raise DataError(f"{path} lists no images; write one `path label` line per image")
    return rows


def class_names(labels: set[str], source: Path) -> tuple[str, ...]:
    """The classes that a list's labels name: in number order where all are whole numbers, in name order otherwise.

    Raises:
        DataError: numbered classes leave one out.
    """
    if not all(label.isascii() and label.isdigit() for label in labels):
        return tuple(sorted(labels))
    numbers = {int(label) for label in labels}
    for number in range(max(numbers)):
        if number not in numbers:
            raise DataError(
                f"class {number} has no images in {source}; number the classes from 0 without gaps or use names"
            )
    if len(numbers) != len(labels):
        raise DataError(f"{source} writes a class number in two ways, such as 1 and 01; write each in one way")
    return tuple(str(number) for number in sorted(numbers))

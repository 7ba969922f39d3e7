"""Tables and paths of Windows as list files: the message says what to change."""

from __future__ import annotations

from pathlib import Path

import pytest

from cfp_cli.data.dataset import open_dataset
from cfp_cli.data.listing import read_list
from cfp_cli.foundation.errors import DataError


@pytest.mark.parametrize(
    "line", ["a.png,crack", "a.png, crack", "a.png;crack", "a.png ; crack", "file,label", "a.png|b"]
)
def test_tables_are_refused_with_what_to_change(tmp_path: Path, line: str) -> None:
    (tmp_path / "train.csv").write_text(f"{line}\n")
    with pytest.raises(DataError, match=r"line 1 is .*separate path and label by a blank or a tab, not by commas"):
        read_list(tmp_path / "train.csv")


@pytest.mark.parametrize("line", ["a.png crack", "a,b.png crack", "a b.png crack", "a.png\tcrack"])
def test_names_may_have_commas_and_blanks(tmp_path: Path, line: str) -> None:
    (tmp_path / "train.txt").write_text(f"{line}\n")
    assert read_list(tmp_path / "train.txt")[0][1] == "crack"


def test_backslashes_between_folders(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("data\\a\\1.png a\ndata\\b\\1.png b\n")
    with pytest.raises(DataError, match=r"none of the images .* write / between folders"):
        open_dataset(tmp_path / "list.txt")

"""Text files of Windows: UTF-16 and UTF-32 with a mark, in each place where a user passes a text file."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from cfp_cli.commands.model_options import _class_names
from cfp_cli.data.listing import read_list
from cfp_cli.data.unlabelled import find_images
from cfp_cli.foundation.text_file import read_user_text

ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"]


def write(path: Path, text: str, encoding: str) -> Path:
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    path.write_bytes(mark + text.encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_each_text_file_is_read_in_each_encoding(tmp_path: Path, encoding: str) -> None:
    assert read_user_text(write(tmp_path / "t.txt", "a\r\nü\n", encoding)).splitlines() == ["a", "ü"]
    context = click.Context(click.Command("x"))
    file = write(tmp_path / "classes.txt", "Riß\r\nok\r\n", encoding)
    assert _class_names(context, click.Option(["--classes"]), str(file)) == ("Riß", "ok")
    assert read_list(write(tmp_path / "train.txt", "a.png 0\r\nb.png 1\r\n", encoding))[1] == (tmp_path / "b.png", "1")
    (tmp_path / "a.png").write_bytes(b"")
    assert find_images([write(tmp_path / "list.txt", "a.png\r\n", encoding)]) == (tmp_path / "a.png",)


def test_other_encodings_are_named(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes("Riß\nok\n".encode("latin-1"))
    with pytest.raises(click.BadParameter, match="not a text file in UTF-8 or UTF-16; save it as UTF-8"):
        _class_names(click.Context(click.Command("x")), click.Option(["--classes"]), str(tmp_path / "classes.txt"))

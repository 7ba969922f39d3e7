"""What a folder of images may have beside them, and paths that are neither folders nor files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from lines import Lines
from PIL import Image

from cfp_cli.data.dataset import open_dataset
from cfp_cli.data.unlabelled import find_images
from cfp_cli.foundation.errors import DataError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for number, label in enumerate(("crack", "ok")):
        (tmp_path / "data" / label).mkdir(parents=True)
        for index in range(6):
            Image.new("L", (4 + index, 5 + number), index).save(tmp_path / "data" / label / f"{index}.png")
    return tmp_path / "data"


@pytest.mark.parametrize("mark", ["run.json", ".lock"], ids=["finished", "running"])
def test_a_run_among_the_classes_is_no_class_and_is_said(data: Path, mark: str) -> None:
    before = open_dataset(data)
    (data / "cfp-run" / "cache").mkdir(parents=True)
    (data / "cfp-run" / mark).write_text("{}")
    lines = Lines()
    after = open_dataset(data, progress=lines)
    assert after.classes == ("crack", "ok")
    assert after.fingerprint == before.fingerprint
    assert lines.lines == [f"ignored under {data}: run directories of cfp (cfp-run)"]


@pytest.mark.parametrize("mark", ["run.json", ".lock"])
def test_a_class_with_images_stays_a_class(data: Path, mark: str) -> None:
    (data / "ok" / mark).write_text("{}")
    assert open_dataset(data).classes == ("crack", "ok")


def test_a_class_without_images_is_still_an_error(data: Path) -> None:
    (data / "scratch").mkdir()
    with pytest.raises(DataError, match="class 'scratch' has no images"):
        open_dataset(data)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_pipes_and_devices_are_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path(os.devnull)):
        with pytest.raises(DataError, match=f"{path} is a pipe or a device, neither .*; copy its content to a file"):
            open_dataset(path)
        with pytest.raises(DataError, match=f"{path} is a pipe or a device, neither .*; copy its content to a file"):
            find_images([path])


@pytest.mark.parametrize("separator", [",", ";", "\t, "])
def test_a_table_is_no_list_of_images(data: Path, separator: str) -> None:
    rows = [separator.join((f"ok/{index}.png", "ok")) for index in range(3)]
    (data / "table.txt").write_text("\n".join([separator.join(("path", "label")), *rows]))
    with pytest.raises(DataError, match=r"none of the images listed .* exist .*without commas and a header"):
        find_images([data / "table.txt"])
    (data / "list.txt").write_text("ok/1.png ok\nok/gone.png ok\n")
    assert [path.name for path in find_images([data / "list.txt"])] == ["1.png", "gone.png"]

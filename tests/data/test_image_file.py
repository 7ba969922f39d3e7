"""Image files start no other program, and a pipe is not waited for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, UnidentifiedImageError

import cfp_cli
from cfp_cli.data.bit_depth import choose_bit_depth
from cfp_cli.data.dataset import open_dataset
from cfp_cli.data.image_file import image_formats, open_image
from cfp_cli.data.transforms import BrokenImageError, decode
from cfp_cli.data.unlabelled import find_images

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.bmp"])
def test_postscript_under_the_name_of_an_image_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / name).write_bytes(EPS)
    with pytest.raises(BrokenImageError, match="not an image"):
        decode(tmp_path / name)
    assert choose_bit_depth([tmp_path / name]) is None
    assert not (tmp_path / "started").exists()


def test_only_one_place_opens_images() -> None:
    sources = Path(cfp_cli.__file__).parent.rglob("*.py")
    assert [path.name for path in sources if "Image.open(" in path.read_text()] == ["image_file.py"]
    assert "PNG" in image_formats()
    assert "EPS" not in image_formats()


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(EPS)
    with pytest.raises(UnidentifiedImageError):
        open_image(tmp_path / "a.png")


# A reader of a pipe would wait forever, so another process does it.
READ = """
import sys
from pathlib import Path
from cfp_cli.data.dataset import open_dataset
data = open_dataset(Path(sys.argv[1]), max_bad=0.5)
print([path.name for path in data.broken.paths])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such pipes")
def test_a_pipe_is_a_broken_image(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for index in range(3):
            Image.new("L", (4, 4), index).save(tmp_path / label / f"{index}.png")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    done = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.stdout.strip() == "['pipe.png']", done.stderr
    assert tmp_path / "a" / "pipe.png" in open_dataset(tmp_path, max_bad=0.5).broken.paths
    assert tmp_path / "a" / "pipe.png" in find_images([tmp_path])

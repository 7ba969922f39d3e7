from __future__ import annotations

import os
from pathlib import Path

from PIL import Image

from cfp_cli.data.dataset import open_dataset
from cfp_cli.data.image_hash import hash_images


def _images(folder: Path) -> Path:
    for split in ("train", "val", "test"):
        for name in ("a", "b"):
            (folder / split / name).mkdir(parents=True)
            for number in range(3):
                colour = (40 * number, 80 if name == "a" else 160, len(split))
                Image.new("RGB", (8, 8), colour).save(folder / split / name / f"{number}.bmp")
    return folder


def test_an_image_of_the_same_size_changes_the_hash(tmp_path: Path) -> None:
    data = _images(tmp_path / "data")
    before = open_dataset(data)
    file = data / "test" / "a" / "1.bmp"
    facts = file.stat()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(file)
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    after = open_dataset(data)
    # BMP files of one size have equal numbers of bytes.
    assert before.fingerprint == after.fingerprint
    _images(tmp_path / "again")
    assert hash_images(open_dataset(tmp_path / "again")) != hash_images(after)


def test_the_place_of_the_folder_does_not_count_but_the_split_does(tmp_path: Path) -> None:
    first, second, third = (open_dataset(_images(tmp_path / name)) for name in ("x", "y", "z"))
    assert hash_images(first) == hash_images(second)
    (tmp_path / "z" / "val" / "a" / "2.bmp").rename(tmp_path / "z" / "test" / "a" / "3.bmp")
    assert hash_images(open_dataset(tmp_path / "z")) != hash_images(first)
    (tmp_path / "x" / "val" / "a" / "2.bmp").unlink()
    assert len(hash_images(first)) == len(hash_images(third)) == 64

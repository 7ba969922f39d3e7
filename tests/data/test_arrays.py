"""Folders and lists of arrays: the message says how to convert them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cfp_cli.data.dataset import open_dataset
from cfp_cli.data.raster import Raster
from cfp_cli.data.transforms import BrokenImageError, decode
from cfp_cli.data.unlabelled import find_images
from cfp_cli.foundation.errors import DataError

ADVICE = r"does not read \.npy files, so convert each to a TIFF file"


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    for name in ("crack", "ok"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(3):
            np.save(tmp_path / "data" / name / f"{index}.npy", np.full((8, 8), 1000 * index, np.uint16))
    return tmp_path / "data"


def test_folders(arrays: Path) -> None:
    for folder in (arrays, arrays / "ok"):
        with pytest.raises(DataError, match=ADVICE):
            open_dataset(folder)


def test_prediction(arrays: Path) -> None:
    for source in (arrays, arrays / "**" / "*.npy", arrays / "ok" / "0.npy"):
        with pytest.raises(DataError, match=ADVICE):
            find_images([source])


def test_entries_of_lists(arrays: Path) -> None:
    with pytest.raises(BrokenImageError, match=ADVICE):
        decode(arrays / "ok" / "0.npy", 3)


@pytest.mark.parametrize("ending", [".mat", ".h5", ".dcm", ".npz"])
def test_other_files(tmp_path: Path, ending: str) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / f"x{ending.upper()}").write_bytes(b"1")
    with pytest.raises(DataError, match=rf"does not read \{ending} files"):
        find_images([tmp_path / "a"])


def test_the_advice_works(arrays: Path) -> None:
    for path in arrays.rglob("*.npy"):
        Image.fromarray(np.load(path)).save(path.with_suffix(".tiff"))
    assert len(find_images([arrays])) == 6
    raster = decode(arrays / "ok" / "2.tiff", 1, 12)
    assert isinstance(raster, Raster)
    assert int(raster.channels_first()[0, 0, 0]) == 2000 >> 4

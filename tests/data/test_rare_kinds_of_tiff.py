"""TIFF files of colours and numbers that are rarely used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from lines import Lines
from PIL import Image

from cfp_cli.data.remarks import Remarks
from cfp_cli.data.transforms import BrokenImageError, decode


@pytest.mark.parametrize("dtype", ["float64", "float16", "uint64"])
def test_unknown_numbers_are_explained(tmp_path: Path, dtype: str) -> None:
    tifffile.imwrite(tmp_path / "x.tif", np.ones((6, 5), dtype))
    with pytest.raises(BrokenImageError, match="an unknown kind of TIFF; save 8, 16 or 32 bits"):
        decode(tmp_path / "x.tif")


@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
def test_many_channels_of_a_pixel_are_explained(tmp_path: Path, order: str, big: bool) -> None:
    values = np.ones((6, 5, 7), np.uint8)
    tifffile.imwrite(
        tmp_path / "x.tif", values, byteorder=order, bigtiff=big, photometric="minisblack", planarconfig="contig"
    )
    with pytest.raises(BrokenImageError, match="more than 4 channels as pages"):
        decode(tmp_path / "x.tif", 7)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_lab_is_converted_and_has_no_opacity(tmp_path: Path, channels: int) -> None:
    lab = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 5, 3)).astype(np.uint8)).convert("LAB")
    lab.save(tmp_path / "x.tif")
    expected = lab.convert("RGB").convert({1: "L", 3: "RGB", 4: "RGBA"}[channels])
    remarks, lines = Remarks(), Lines()
    np.testing.assert_array_equal(decode(tmp_path / "x.tif", channels, remarks=remarks), np.asarray(expected))
    remarks.report(lines)
    assert lines.lines == []

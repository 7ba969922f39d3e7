from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from lines import Lines
from PIL import Image

from cfp_cli.data.bit_depth import choose_bit_depth
from cfp_cli.data.dataset import open_dataset
from cfp_cli.data.images import load_images
from cfp_cli.data.remarks import Remarks
from cfp_cli.data.transforms import BrokenImageError, Preprocessing, decode

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def png16(path: Path, values: np.ndarray) -> None:
    """Write a 16-bit PNG of [H, W, C] with 2, 3 or 4 channels, which Pillow cannot write."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_grey_of_every_depth_is_chosen_and_read(tmp_path: Path, bits: int, ending: str) -> None:
    values = RAMP.astype(np.uint16) << (bits - 8)
    values[-1, -1] = 2**bits - 1
    path = tmp_path / f"x.{ending}"
    Image.fromarray(values).save(path)
    assert choose_bit_depth([path]) == (bits, 2**bits - 1)
    np.testing.assert_array_equal(decode(path, 1, bits), RAMP)
    np.testing.assert_array_equal(np.asarray(decode(path, 3, bits)), np.stack([RAMP] * 3, -1))


@pytest.mark.parametrize(("dtype", "bits"), [(np.int16, 14), (np.int32, 16), (np.uint32, 32), (np.float32, 12)])
def test_signed_wide_and_floating_point_numbers(tmp_path: Path, dtype: type, bits: int) -> None:
    values = (RAMP.astype(np.float64) * 2.0 ** (bits - 8)).astype(dtype)
    tifffile.imwrite(tmp_path / "x.tif", values)
    assert choose_bit_depth([tmp_path / "x.tif"]) == (bits, float(values.max()))
    np.testing.assert_array_equal(decode(tmp_path / "x.tif", 1, bits), RAMP)


def test_floating_point_numbers_up_to_one(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", (RAMP / 255).astype(np.float32))
    assert choose_bit_depth([tmp_path / "x.tif"]) == (1, 1.0)
    np.testing.assert_array_equal(decode(tmp_path / "x.tif", 1, 1), RAMP)
    with pytest.raises(BrokenImageError, match="float pixels have no known range"):
        decode(tmp_path / "x.tif")


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("kind", ["png", "png alpha", "tif", "tif zlib", "tif big-endian"])
def test_colours_of_16_bits(tmp_path: Path, kind: str, bits: int) -> None:
    values = np.random.default_rng(0).integers(0, 2**bits, (7, 9, 4 if "alpha" in kind else 3)).astype(np.uint16)
    path = tmp_path / f"x.{kind[:3]}"
    if kind.startswith("png"):
        png16(path, values)
    else:
        options = {"tif": {}, "tif zlib": {"compression": "zlib"}, "tif big-endian": {"byteorder": ">"}}[kind]
        tifffile.imwrite(path, values, photometric="rgb", **options)
    np.testing.assert_array_equal(np.asarray(decode(path, 3, bits)), (values >> (bits - 8))[..., :3])
    depth, largest = choose_bit_depth([path]) or (0, 0)
    assert (depth, largest) == (bits, values.max())


def test_files_that_pillow_would_read_wrongly_are_broken(tmp_path: Path) -> None:
    values = np.full((3, 8, 8), 4000, np.uint16)
    tifffile.imwrite(tmp_path / "planes.tif", values, photometric="rgb", planarconfig="separate")
    with pytest.raises(BrokenImageError, match="separate planes"):
        decode(tmp_path / "planes.tif", 3, 12)
    tifffile.imwrite(tmp_path / "negative.tif", values[0], photometric="miniswhite")
    with pytest.raises(BrokenImageError, match="0 is white"):
        decode(tmp_path / "negative.tif", 3, 12)
    png16(tmp_path / "alpha.png", np.full((4, 4, 2), 4000, np.uint16))
    with pytest.raises(BrokenImageError, match="without transparency"):
        decode(tmp_path / "alpha.png", 3, 12)
    tifffile.imwrite(tmp_path / "nan.tif", np.full((4, 4), np.nan, np.float32))
    with pytest.raises(BrokenImageError, match="NaN or infinite"):
        decode(tmp_path / "nan.tif", 1, 1)


def test_values_outside_black_and_white_are_clipped_and_said(tmp_path: Path) -> None:
    path, remarks, told = tmp_path / "x.tif", Remarks(), Lines()
    tifffile.imwrite(path, np.array([[-5, 0], [4095, 5000]], np.int32))
    np.testing.assert_array_equal(decode(path, 1, 12, remarks), [[0, 0], [255, 255]])
    remarks.report(told)
    remarks.report(told)
    assert [line.partition(f"{path}, ")[2][:30] for line in told.lines] == [
        "have values above the white of",
        "have values below 0, which bec",
    ]


def test_one_depth_for_the_whole_dataset(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for index in range(5):
            # Only one image reaches the white of the camera.
            values = np.full((6, 6), 4095 if (label, index) == ("a", 3) else 100 + index, np.uint16)
            Image.fromarray(values).save(tmp_path / label / f"{index}.png")
    told = Lines()
    data = open_dataset(tmp_path, progress=told)
    assert data.bit_depth == 12
    assert any("the bit depth is 12 and white is 4095; pass --bit-depth" in line for line in told.lines)
    store = load_images(data, "train", Preprocessing((6, 6), bit_depth=data.bit_depth))
    assert set(store.images.unique().tolist()) <= {6, 255}
    assert open_dataset(tmp_path, bit_depth=16).bit_depth == 16


def test_images_of_8_bits_have_no_depth(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "x.png")
    Image.fromarray(RAMP).save(tmp_path / "x.jpg")
    assert choose_bit_depth([tmp_path / "x.png", tmp_path / "x.jpg", tmp_path / "missing.png"]) is None
    np.testing.assert_array_equal(decode(tmp_path / "x.png", 1, 12), RAMP)

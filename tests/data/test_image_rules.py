from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from lines import Lines
from PIL import Image

from cfp_cli.data.dataset import open_dataset
from cfp_cli.data.images import load_images
from cfp_cli.data.raster import as_colours
from cfp_cli.data.remarks import Remarks
from cfp_cli.data.transforms import BrokenImageError, Preprocessing, decode
from cfp_cli.data.views import ViewStore


def colours(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 10, 3)).astype(np.uint8))


def said(path: Path) -> list[str]:
    remarks, told = Remarks(), Lines()
    decode(path, remarks=remarks)
    remarks.report(told)
    return told.lines


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P", "tRNS"])
def test_transparency_is_dropped_and_said(tmp_path: Path, kind: str) -> None:
    path, image = tmp_path / "x.png", colours()
    if kind == "tRNS":
        image.save(path, transparency=image.getpixel((0, 0)))
    elif kind == "P":
        image = image.quantize(8)
        image.save(path, transparency=0)
        image = image.convert("RGB")
    else:
        image = image.convert(kind)
        image.putalpha(Image.new("L", image.size, 7))
        image.save(path)
        image = image.convert("RGB")
    np.testing.assert_array_equal(decode(path), np.asarray(image))
    assert [line.partition(str(path))[2][:24] for line in said(path)] == [", are partly transparent"]


def test_networks_of_four_channels_read_the_opacity(tmp_path: Path) -> None:
    image = colours()
    image.putalpha(Image.new("L", image.size, 7))
    image.save(tmp_path / "x.png")
    np.testing.assert_array_equal(decode(tmp_path / "x.png", 4), np.asarray(image))
    colours().save(tmp_path / "opaque.png")
    assert (np.asarray(decode(tmp_path / "opaque.png", 4))[..., 3] == 255).all()


def test_the_opacity_does_not_change_resized_colours(tmp_path: Path) -> None:
    image = colours()
    image.putalpha(Image.new("L", image.size, 0))
    image.save(tmp_path / "x.png")
    pixels = Preprocessing((4, 5), (0.0,) * 4, (1.0,) * 4, channels=4).pixels(tmp_path / "x.png")
    expected = np.asarray(colours().resize((5, 4), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    np.testing.assert_array_equal(pixels[:3], expected)


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.tif"])
def test_exif_orientation_is_that_of_imagefolder_and_said(tmp_path: Path, name: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    colours().save(tmp_path / name, exif=exif)
    image = decode(tmp_path / name)
    # Pillow, and so ImageFolder, turns TIFF files only.
    assert (image.height, image.width) == ((10, 8) if name == "x.tif" else (8, 10))
    assert [line.partition(name)[2][:27] for line in said(tmp_path / name)] == [", have an EXIF orientation;"]
    colours().save(tmp_path / "upright.jpg")
    assert said(tmp_path / "upright.jpg") == []


@pytest.mark.parametrize("name", ["x.tif", "x.gif"])
def test_the_first_page_is_used_and_said(tmp_path: Path, name: str) -> None:
    first = Image.new("L", (4, 4), 9)
    first.save(tmp_path / name, save_all=True, append_images=[Image.new("L", (4, 4), 200)])
    assert set(np.asarray(decode(tmp_path / name, 1)).flat) == {9}
    assert [line.partition(name)[2][:20] for line in said(tmp_path / name)] == [", have several pages"]


def test_grey_is_the_luminance(tmp_path: Path) -> None:
    colours().save(tmp_path / "x.png")
    np.testing.assert_array_equal(decode(tmp_path / "x.png", 1), np.asarray(colours().convert("L")))


@pytest.mark.parametrize(("channels", "bits"), [(2, 8), (5, 8), (6, 12)])
def test_pages_are_channels(tmp_path: Path, channels: int, bits: int) -> None:
    values = np.random.default_rng(0).integers(0, 2**bits, (channels, 6, 7)).astype(np.uint16 if bits > 8 else np.uint8)
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="minisblack")
    np.testing.assert_array_equal(decode(tmp_path / "x.tif", channels, bits).channels_first(), values >> (bits - 8))
    with pytest.raises(BrokenImageError, match="the network needs 7"):
        decode(tmp_path / "x.tif", 7, bits)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("augment", ["none", "paper", "geometric", "strong"])
def test_views_of_any_number_of_channels(tmp_path: Path, channels: int, augment: str) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for index in range(4):
            values = np.random.default_rng(index).integers(0, 256, (channels, 20, 24)).astype(np.uint8)
            pages = values if channels not in (1, 3) else values[:1]
            tifffile.imwrite(tmp_path / label / f"{index}.tif", pages, photometric="minisblack")
    data = open_dataset(tmp_path)
    preprocessing = Preprocessing((10, 16), (0.5,) * channels, (0.5,) * channels, channels)
    views = ViewStore(data.split("train"), preprocessing, augment, 3)
    assert views.get([0, 1], [0, 0]).shape == (2, channels, 10, 16)
    assert load_images(data, "test", preprocessing).images.shape[1:] == (channels, 10, 16)


def test_each_rule_is_said_once_for_a_dataset(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for index in range(6):
            colours(index).convert("RGBA").save(tmp_path / label / f"{index}.png")
    data, told = open_dataset(tmp_path), Lines()
    for split in ("train", "val", "test"):
        load_images(data, split, Preprocessing((8, 8)), progress=told)
    assert len(told.lines) == 1


def test_colours_to_look_at() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(6, 2, 2)
    assert as_colours(pixels[:1]).tolist() == [pixels[0].tolist()] * 3
    assert as_colours(pixels[:2]).shape == (3, 2, 2)
    assert as_colours(pixels).tolist() == pixels[:3].tolist()

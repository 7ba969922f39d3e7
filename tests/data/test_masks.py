"""Masks are found beside the images and read as class indices; other files are refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cfp_cli.data.images import load_images
from cfp_cli.data.masks import MaskBatches, mask_file, read_mask
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.data.without_labels import open_without_labels
from cfp_cli.foundation.errors import DataError

INDICES = np.arange(24, dtype=np.uint8).reshape(4, 6) % 3
ORIENTATION = 0x0112


def write(path: Path, pixels: np.ndarray, mode: str | None = None, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels, mode).save(path, **options)
    return path


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/a.jpg", "masks/a.png"),
        ("images/train/a.jpg", "masks/train/a.png"),
        ("train/images/a.png", "train/masks/a.png"),
        ("train/IMG/line.3/a.b.png", "train/masks/line.3/a.b.png"),
        ("images/images/a.png", "masks/images/a.png"),
    ],
)
def test_masks_are_found(image: str, mask: str, tmp_path: Path) -> None:
    write(tmp_path / mask, INDICES)
    assert mask_file(tmp_path / image) == tmp_path / mask


@pytest.mark.parametrize(
    ("image", "message"), [("images/b.png", "has no mask .*masks/b.png; add it"), ("b.png", "put the images into")]
)
def test_a_missing_mask_is_named(image: str, message: str, tmp_path: Path) -> None:
    write(tmp_path / "masks/a.png", INDICES)
    with pytest.raises(DataError, match=message):
        mask_file(tmp_path / image)


def palette(path: Path) -> None:
    picture = Image.fromarray(INDICES, "P")
    picture.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    picture.save(path)


@pytest.mark.parametrize("kind", ["grey", "palette", "16 bits"])
def test_every_kind_of_index_is_read(kind: str, tmp_path: Path) -> None:
    image, mask = write(tmp_path / "a.jpg", INDICES), tmp_path / "a.png"
    if kind == "palette":
        palette(mask)
    else:
        write(mask, INDICES if kind == "grey" else INDICES.astype(np.uint16))
    assert torch.equal(read_mask(mask, image, 3), torch.from_numpy(INDICES).long())


def test_one_bit_is_two_classes(tmp_path: Path) -> None:
    image, mask = write(tmp_path / "a.jpg", INDICES), tmp_path / "a.png"
    Image.fromarray(INDICES == 1).save(mask)
    assert torch.equal(read_mask(mask, image, 2), torch.from_numpy(INDICES == 1).long())


def test_255_is_no_class(tmp_path: Path) -> None:
    pixels = np.where(INDICES == 2, 255, INDICES).astype(np.uint8)
    image, mask = write(tmp_path / "a.jpg", INDICES), write(tmp_path / "a.png", pixels)
    assert read_mask(mask, image, 2).unique().tolist() == [0, 1, 255]


BAD = {
    "colours": (np.zeros((4, 6, 3), np.uint8), "has 3 channels, not class indices"),
    "another size": (INDICES.T, "has 4 x 6 pixels but its image has 6 x 4"),
    "an index of no class": (INDICES, "contains the class index 2, but the network has the classes 0 to 1"),
}


@pytest.mark.parametrize("kind", BAD)
def test_unusable_masks_are_refused(kind: str, tmp_path: Path) -> None:
    pixels, message = BAD[kind]
    image, mask = write(tmp_path / "a.jpg", INDICES), write(tmp_path / "m.png", np.ascontiguousarray(pixels))
    with pytest.raises(DataError, match=f"the mask .*m.png {message}"):
        read_mask(mask, image, 2)


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n", "cut"])
def test_files_that_are_no_image_are_refused(content: bytes | str, tmp_path: Path) -> None:
    image, mask = write(tmp_path / "a.jpg", INDICES), tmp_path / "m.png"
    noise = np.random.default_rng(0).integers(0, 3, (90, 90), np.uint8)
    mask.write_bytes(write(mask, noise).read_bytes()[:300] if isinstance(content, str) else content)
    with pytest.raises(DataError, match=r"the mask .*m\.png (is not an image|cannot be read)"):
        read_mask(mask, image)


def test_the_size_is_that_of_the_turned_image(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    image = write(tmp_path / "a.jpg", INDICES, exif=turned)
    assert read_mask(write(tmp_path / "m.png", np.ascontiguousarray(INDICES.T)), image).shape == (6, 4)
    with pytest.raises(DataError, match="its image has 4 x 6"):
        read_mask(write(tmp_path / "m.png", INDICES), image)


def test_batches_pair_images_and_masks(tmp_path: Path) -> None:
    for index in range(7):
        shape = (4, 6 + index % 2)
        write(tmp_path / f"images/{index}.png", np.full(shape, 10 * index, np.uint8))
        write(tmp_path / f"masks/{index}.png", np.full(shape, index, np.uint8))
    data = open_without_labels(tmp_path, val_fraction=0.2, test_fraction=0.2)
    batches = MaskBatches(load_images(data, "train", Preprocessing((4, 6), (0.0,), (1.0,), 1)), 2)
    for _ in range(2):
        seen = [(image, mask) for images, masks in batches for image, mask in zip(images, masks, strict=True)]
        assert len(batches) == -(-len(seen) // 2)
        assert len(seen) == len(data.split("train"))
        for image, mask in seen:
            assert mask.unique().tolist() == [round(float(image.mean()) * 25.5)]
            assert mask.shape == (4, 6 + int(mask[0, 0]) % 2)


def test_a_jpeg_file_with_the_name_of_a_mask_is_refused(tmp_path: Path) -> None:
    mask = tmp_path / "mask.png"
    Image.new("L", (8, 8)).save(mask, format="JPEG")
    with pytest.raises(DataError, match="is a JPEG file, which changes class indices; save it as PNG"):
        read_mask(mask, mask)

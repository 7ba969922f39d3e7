from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lines import Lines
from PIL import Image
from torchvision.transforms import v2

from cfp_cli.data.broken import BrokenImages
from cfp_cli.data.dataset import Item, open_dataset
from cfp_cli.data.images import ImageStore, load_images, stratified_sample
from cfp_cli.data.transforms import BrokenImageError, Preprocessing, decode
from cfp_cli.foundation.errors import DataError


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def write_tree(root: Path, count: int = 30, size: int = 12) -> Path:
    for label in ("a", "b"):
        (root / label).mkdir(parents=True)
        for index in range(count):
            noise(size, size, index + 1000 * ord(label)).save(root / label / f"{index:03}.png")
    return root


@pytest.mark.parametrize(("height", "width", "mode"), [(40, 56, "RGB"), (17, 9, "RGB"), (24, 32, "RGB"), (50, 50, "L")])
def test_pixels_equal_torchvision(tmp_path: Path, height: int, width: int, mode: str) -> None:
    noise(height, width).convert(mode).save(tmp_path / "x.png")
    preprocessing = Preprocessing((24, 32), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    oracle = v2.Compose(
        [
            v2.RGB(),
            v2.Resize((24, 32), antialias=True),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(preprocessing.mean, preprocessing.std),
        ]
    )
    expected = oracle(Image.open(tmp_path / "x.png"))
    actual = preprocessing.normalise(torch.from_numpy(preprocessing.pixels(tmp_path / "x.png")))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


def test_without_mean_and_std_values_are_in_unit_range(tmp_path: Path) -> None:
    noise(8, 8).save(tmp_path / "x.bmp")
    preprocessing = Preprocessing((8, 8))
    pixels = torch.from_numpy(preprocessing.pixels(tmp_path / "x.bmp"))
    assert torch.equal(preprocessing.normalise(pixels), pixels.float() / 255)


def test_every_mode_becomes_rgb(tmp_path: Path) -> None:
    ramp = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    grey = np.stack([ramp] * 3, axis=-1)
    Image.fromarray(ramp).save(tmp_path / "8.png")
    Image.fromarray(ramp.astype(np.uint16) * 256 + 77).save(tmp_path / "16.png")
    Image.fromarray(ramp.astype(np.uint16) * 256 + 77).save(tmp_path / "16.tif")
    Image.fromarray(ramp.astype(np.int32) * 256).save(tmp_path / "32.tif")
    for name in ("8.png", "16.png", "16.tif", "32.tif"):
        np.testing.assert_array_equal(np.asarray(decode(tmp_path / name)), grey, err_msg=name)
    Image.fromarray(ramp).convert("P").save(tmp_path / "p.png", transparency=b"\x00\x10")
    Image.fromarray(ramp).convert("LA").save(tmp_path / "la.png")
    noise(8, 8).convert("CMYK").save(tmp_path / "cmyk.jpg")
    Image.fromarray(ramp > 90).save(tmp_path / "1.png")
    for name in ("p.png", "la.png", "cmyk.jpg", "1.png"):
        assert decode(tmp_path / name).mode == "RGB"
    Image.fromarray(ramp.astype(np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(BrokenImageError, match="float pixels"):
        decode(tmp_path / "f.tif")


def test_broken_files_say_why(tmp_path: Path) -> None:
    noise(64, 64).save(tmp_path / "whole.jpg", quality=95)
    noise(64, 64).save(tmp_path / "whole.png")
    for name in ("whole.jpg", "whole.png"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name.replace("whole", "cut")).write_bytes(content[: len(content) // 2])
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "empty.png").touch()
    for name, reason in {
        "cut.jpg": "truncated",
        "cut.png": "truncated",
        "text.jpg": "not an image",
        "empty.png": "not an",
    }.items():
        with pytest.raises(BrokenImageError, match=reason):
            decode(tmp_path / name)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(
    content=st.binary(max_size=300),
    start=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF89a", b"II*\x00", b"P5 "]),
)
def test_hostile_bytes_are_only_ever_broken(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, start: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "hostile.png"
    path.write_bytes(start + content)
    with contextlib.suppress(BrokenImageError):
        assert decode(path).mode == "RGB"


@pytest.mark.parametrize(
    ("size", "mean", "std"),
    [((0, 8), (0.0,) * 3, (1.0,) * 3), ((8, 8), (0.0,), (1.0,)), ((8, 8), (0.0,) * 3, (1.0, 0.0, 1.0))],
)
def test_preprocessing_refuses_nonsense(size: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"input size|mean"):
        Preprocessing(size, mean, std)


def test_store_holds_the_split_in_order(tmp_path: Path) -> None:
    dataset = open_dataset(write_tree(tmp_path))
    preprocessing = Preprocessing((8, 10))
    store = load_images(dataset, "train", preprocessing, threads=3)
    assert store.images.shape == (len(store), 3, 8, 10)
    assert store.images.dtype == torch.uint8
    assert store.paths == tuple(item.path for item in dataset.split("train"))
    assert store.labels.tolist() == [item.label for item in dataset.split("train")]
    for index in (0, 7, len(store) - 1):
        assert np.array_equal(store.images[index], preprocessing.pixels(store.paths[index]))


def test_store_is_the_same_in_memory_and_on_disk(tmp_path: Path) -> None:
    items = open_dataset(write_tree(tmp_path / "data")).split("train")
    memory = ImageStore(items, Preprocessing((8, 8)))
    disk = ImageStore(items, Preprocessing((8, 8)), budget=0, cache_folder=tmp_path / "cache", threads=1)
    assert torch.equal(memory.images, disk.images)
    assert list((tmp_path / "cache").iterdir()) == []  # the file has no name, so nothing stays behind


def test_disk_that_is_too_small_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = open_dataset(write_tree(tmp_path / "data")).split("train")
    monkeypatch.setattr("cfp_cli.data.decoding.shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(DataError, match="use a smaller input size, fewer views or another folder"):
        ImageStore(items, Preprocessing((8, 8)), budget=0)


def test_batches_can_be_walked_again_and_chosen(tmp_path: Path) -> None:
    store = load_images(open_dataset(write_tree(tmp_path)), "train", Preprocessing((8, 8)))
    loader = store.batches(16)
    assert len(loader) == len(list(loader)) == len(list(loader)) == -(-len(store) // 16)
    images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert torch.equal(images, store.images.float() / 255)
    assert images.dtype == torch.float32
    assert torch.equal(labels, store.labels)
    chosen = list(store.batches(2, [3, 1, 3]))
    assert [len(part) for part, _ in chosen] == [2, 1]
    assert torch.equal(torch.cat([part for part, _ in chosen]), store.images[[3, 1, 3]].float() / 255)
    with pytest.raises(ValueError, match="batch size 0"):
        store.batches(0)


def test_broken_images_are_told_once_and_skipped(tmp_path: Path) -> None:
    write_tree(tmp_path, count=60)
    bad = open_dataset(tmp_path).split("train")[5].path
    bad.write_bytes(b"not an image")
    dataset, told = open_dataset(tmp_path), Lines()
    first = load_images(dataset, "train", Preprocessing((8, 8)), progress=told)
    second = load_images(dataset, "train", Preprocessing((4, 4)), progress=told)
    assert told.lines == [f"skipped {bad}: not an image"]
    assert dataset.broken.paths == (bad,)
    assert bad not in first.paths
    assert len(first) == len(second) == len(dataset.split("train")) - 1
    for index in (4, 5, len(first) - 1):
        assert np.array_equal(first.images[index], first.preprocessing.pixels(first.paths[index]))


def test_too_many_broken_images_are_an_error(tmp_path: Path) -> None:
    write_tree(tmp_path, count=20)
    for item in open_dataset(tmp_path).split("train")[:3]:
        item.path.write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"1 of 40 images are broken.*more than the accepted 1%"):
        load_images(open_dataset(tmp_path), "train", Preprocessing((8, 8)))
    lenient = open_dataset(tmp_path, max_bad=0.2)
    load_images(lenient, "train", Preprocessing((8, 8)))
    assert len(lenient.broken.paths) == 3


def test_nothing_to_decode_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.png").touch()
    with pytest.raises(DataError, match="none of 1 images can be decoded"):
        ImageStore([Item(tmp_path / "x.png", 0)], Preprocessing((8, 8)), broken=BrokenImages(1, 1.0))
    with pytest.raises(DataError, match="no images"):
        ImageStore([], Preprocessing((8, 8)))


@given(counts=st.lists(st.integers(1, 12), min_size=1, max_size=6), count=st.integers(0, 80), seed=st.integers(0, 9))
def test_stratified_sample_is_spread_over_the_classes(counts: list[int], count: int, seed: int) -> None:
    labels = [label for label, size in enumerate(counts) for _ in range(size)]
    chosen = stratified_sample(labels, count, seed)
    assert len(set(chosen)) == len(chosen) == min(count, len(labels))
    taken = np.bincount(np.array(labels)[chosen], minlength=len(counts)) if len(chosen) else np.zeros(len(counts))
    # No class is more than one image behind another that still has some left.
    rounds = taken.max()
    assert all(share >= min(size, rounds - 1) for share, size in zip(taken, counts, strict=True))
    assert np.array_equal(chosen, stratified_sample(torch.tensor(labels), count, seed))


def test_stratified_sample_depends_on_the_seed() -> None:
    labels = [0] * 50 + [1] * 50
    assert not np.array_equal(stratified_sample(labels, 20, 0), stratified_sample(labels, 20, 1))
    # A sample is the beginning of a larger one.
    assert np.array_equal(stratified_sample(labels, 20, 0), stratified_sample(labels, 60, 0)[:20])


@pytest.mark.shared_data
def test_real_images_equal_torchvision(shared: Path) -> None:
    dataset = open_dataset(shared / "data/neu-cls")
    store = load_images(dataset, "test", Preprocessing((64, 64)))
    resize = v2.Compose([v2.Resize((64, 64), antialias=True), v2.PILToTensor()])
    assert len(store) == 360
    for index in range(0, 360, 37):
        assert torch.equal(store.images[index], resize(Image.open(store.paths[index]).convert("RGB")))

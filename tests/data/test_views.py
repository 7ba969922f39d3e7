from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from cfp_cli.data.broken import BrokenImages
from cfp_cli.data.choices import Augment
from cfp_cli.data.dataset import Item
from cfp_cli.data.images import ImageStore
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.data.views import ViewStore, WithViews
from cfp_cli.foundation.errors import UsageError

SIZE = (16, 16)


@pytest.fixture
def items(tmp_path: Path) -> list[Item]:
    made = []
    for index in range(12):
        pixels = np.random.default_rng(index).integers(0, 256, (20 + index, 26 - index, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index:02}.png")
        made.append(Item(tmp_path / f"{index:02}.png", index % 3))
    return made


def test_none_is_the_deterministic_transform(items: list[Item]) -> None:
    preprocessing = Preprocessing(SIZE, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    store = ViewStore(items, preprocessing, "none")
    assert (store.views, store.images.shape) == (1, (12, 1, 3, 16, 16))
    batch = store.get([3, 0], [0, 0])
    assert batch.dtype == torch.float32
    for row, index in enumerate((3, 0)):
        assert torch.equal(
            batch[row], preprocessing.normalise(torch.from_numpy(preprocessing.pixels(items[index].path)))
        )


@pytest.mark.parametrize("size", [(16, 16), (22, 14), (64, 64)])
def test_paper_views_equal_torchvision(items: list[Item], size: tuple[int, int]) -> None:
    store = ViewStore(items, Preprocessing(size), "paper")
    crop, resize = v2.CenterCrop(size), v2.Resize(size, antialias=True)
    tensor = v2.PILToTensor()
    for index, item in enumerate(items):
        image = Image.open(item.path)
        plain = [tensor(crop(image)), tensor(resize(image))]
        expected = plain + [view.flip(2) for view in plain] + [view.flip(1) for view in plain]
        assert torch.equal(store.images[index], torch.stack(expected))


def test_paper_views_shown_equally_often_have_the_papers_shares(items: list[Item]) -> None:
    store = ViewStore(items, Preprocessing(SIZE), "paper")
    assert store.views == 8
    views = store.get([5] * 8, range(8))
    distinct = store.preprocessing.normalise(store.images[5])
    shares = [sum(torch.equal(view, kind) for view in views) / 8 for kind in distinct]
    assert shares == [0.25, 0.25, 0.125, 0.125, 0.125, 0.125]


@pytest.mark.parametrize("augment", ["geometric", "strong"])
def test_drawn_views_depend_on_seed_image_and_view_only(items: list[Item], tmp_path: Path, augment: Augment) -> None:
    store = ViewStore(items, Preprocessing(SIZE), augment, views=5, seed=3, threads=1)
    again = ViewStore(items, Preprocessing(SIZE), augment, views=5, seed=3, threads=4)
    disk = ViewStore(items, Preprocessing(SIZE), augment, views=5, seed=3, budget=0, cache_folder=tmp_path / "cache")
    fewer = ViewStore(items, Preprocessing(SIZE), augment, views=2, seed=3)
    assert torch.equal(store.images, again.images)
    assert torch.equal(store.images, disk.images)
    assert torch.equal(store.images[:, :2], fewer.images)
    assert not torch.equal(store.images, ViewStore(items, Preprocessing(SIZE), augment, views=5, seed=4).images)
    flat = store.images.reshape(60, -1)
    assert len(torch.unique(flat, dim=0)) == 60


def test_strong_views_are_mild(tmp_path: Path) -> None:
    """A grey square keeps its level within the jitter, and a view keeps at least 60 % of the image's area."""
    ramp = np.tile(np.linspace(60, 180, 64).astype(np.uint8), (48, 1))
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    store = ViewStore([Item(tmp_path / "ramp.png", 0)], Preprocessing((32, 40)), "strong", views=60)
    views = store.images[0].double()
    assert torch.equal(views[:, 0], views[:, 1])
    assert torch.equal(views[:, 0], views[:, 2])
    assert (views.mean((1, 2, 3)) - 120).abs().max() < 20 + 0.25 * 120
    slopes = (views[:, 0, :, -4:].mean((1, 2)) - views[:, 0, :, :4].mean((1, 2))).abs()
    assert slopes.min() > 120 * 0.6 * 0.7 * 0.8
    assert slopes.max() < 120 * 1.25


def test_geometric_views_keep_the_light(tmp_path: Path) -> None:
    """Grey levels stay, and a view keeps at least three quarters of the image's area."""
    ramp = np.tile(np.linspace(60, 180, 64).astype(np.uint8), (64, 1))
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    views = ViewStore([Item(tmp_path / "ramp.png", 0)], Preprocessing((32, 32)), "geometric", views=60).images[0]
    assert int(views.min()) >= 60
    assert int(views.max()) <= 180
    spread = (views.amax((1, 2, 3)) - views.amin((1, 2, 3))).double()
    # A crop of area a and aspect exp(r) is sqrt(a exp(r)) as wide.
    assert spread.min() > 120 * (0.75 * np.exp(-0.15)) ** 0.5 * 0.95
    assert spread.max() > spread.min()


def test_right_angle_turns_only_where_the_input_is_square(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1))
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    item = Item(tmp_path / "ramp.png", 0)

    def lies(size: tuple[int, int]) -> set[bool]:
        views = ViewStore([item], Preprocessing(size), "strong", views=40).images[0, :, 0].double()
        return {bool(view.mean(0).std() > view.mean(1).std()) for view in views}

    assert lies((32, 32)) == {True, False}
    assert lies((32, 40)) == {True}


def test_key_names_what_the_views_are_made_of(items: list[Item], tmp_path: Path) -> None:
    def key(items: list[Item] = items, size: tuple[int, int] = SIZE, mean: float = 0.0, **options: object) -> str:
        return ViewStore(items, Preprocessing(size, (mean,) * 3), **{"augment": "strong", "views": 2, **options}).key

    moved = tmp_path / "moved"
    moved.mkdir()
    for item in items:
        shutil.copyfile(item.path, moved / item.path.name)
        os.utime(moved / item.path.name, (0, 0))
    assert key([Item(moved / item.path.name, item.label) for item in items]) == key()
    keys = [
        key(),
        key(items[:-1]),
        key([*items[:-1], Item(items[-1].path, 0)]),
        key(size=(16, 17)),
        key(mean=0.5),
        key(views=3),
        key(seed=1),
        key(augment="paper"),
        key(augment="none"),
    ]
    before = items[0].path.stat()
    Image.open(items[0].path).transpose(Image.Transpose.ROTATE_180).save(items[0].path)
    os.utime(items[0].path, ns=(before.st_atime_ns, before.st_mtime_ns))
    keys.append(key())
    assert len(set(keys)) == len(keys)


def test_broken_images_leave_the_other_views_as_they_are(items: list[Item]) -> None:
    whole = ViewStore(items, Preprocessing(SIZE), "strong", views=2)
    items[4].path.write_bytes(b"no image")
    broken = BrokenImages(len(items), 0.2)
    store = ViewStore(items, Preprocessing(SIZE), "strong", views=2, broken=broken)
    assert broken.paths == (items[4].path,)
    kept = [index for index in range(12) if index != 4]
    assert torch.equal(store.images, whole.images[kept])
    assert store.labels.tolist() == [items[index].label for index in kept]


def test_wrong_usage(items: list[Item]) -> None:
    with pytest.raises(UsageError, match="unknown augmentation 'hard'; use one of none, paper, geometric, strong"):
        ViewStore(items, Preprocessing(SIZE), "hard")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="0 views"):
        ViewStore(items, Preprocessing(SIZE), "strong", views=0)


def test_batches_have_all_views_one_view_after_another(items: list[Item]) -> None:
    store = ViewStore(items, Preprocessing(SIZE), "geometric", views=3)
    batches = list(store.batches(5))
    assert len(batches) == len(store.batches(5)) == 9
    images, labels = (torch.cat(each) for each in zip(*batches, strict=True))
    order = np.arange(36)
    assert torch.equal(images, store.get(order % 12, order // 12))
    assert torch.equal(labels, store.labels.repeat(3))


@pytest.mark.parametrize("augment", ["geometric", "paper"])
def test_images_are_followed_by_one_view_of_each(items: list[Item], augment: Augment) -> None:
    images = ImageStore(items, Preprocessing(SIZE))
    loader = WithViews(images, augment, 3, 5)
    batches = list(loader)
    assert len(batches) == len(loader) == 6
    pixels, labels = (torch.cat(each) for each in zip(*batches, strict=True))
    assert torch.equal(pixels[:12], torch.cat([each for each, _ in images.batches(12)]))
    assert torch.equal(labels, images.labels.repeat(2))
    views = ViewStore(items, Preprocessing(SIZE), augment, 1, 3)
    for index in range(12):
        every = views.get([index] * views.views, range(views.views))
        assert any(torch.equal(pixels[12 + index], view) for view in every)
    again = torch.cat([each for each, _ in WithViews(images, augment, 3, 12)])
    assert torch.equal(again, pixels)

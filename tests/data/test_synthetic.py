from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from scipy.sparse.csgraph import connected_components

from cfp_cli.data.dataset import open_dataset
from cfp_cli.data.images import load_images
from cfp_cli.data.synthetic import CLASSES, boxes, class_sizes, generate, render, render_with_mask
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.foundation.errors import DataError, UsageError


def test_tree_of_grey_images(tmp_path: Path) -> None:
    folder = generate(tmp_path / "made", per_class=4, test_per_class=2, size=80)
    data = open_dataset(folder)
    assert data.classes == CLASSES == ("crazing", "inclusions", "patches", "pits", "scale", "scratches")
    assert data.counts("test") == (2,) * 6
    assert sum(map(len, data.splits.values())) == 36
    for item in data.split("train"):
        with Image.open(item.path) as image:
            assert (image.mode, image.size, image.format) == ("L", (80, 80), "PNG")


def test_same_seed_same_images_whatever_number_and_threads(tmp_path: Path) -> None:
    few, many, other = tmp_path / "few", tmp_path / "many", tmp_path / "other"
    generate(few, per_class=2, test_per_class=1, seed=5, threads=1)
    generate(many, per_class=3, test_per_class=2, seed=5, threads=4)
    generate(other, per_class=2, test_per_class=1, seed=6)
    for path in few.rglob("*.png"):
        name = path.relative_to(few)
        assert path.read_bytes() == (many / name).read_bytes()
        assert path.read_bytes() != (other / name).read_bytes()
    contents = [path.read_bytes() for path in many.rglob("*.png")]
    assert len(set(contents)) == len(contents)


def test_imbalance_is_the_ratio_of_the_largest_to_the_smallest(tmp_path: Path) -> None:
    sizes = list(class_sizes(100, 20).values())
    assert (sizes[0], sizes[-1]) == (100, 5)
    assert sizes == sorted(sizes, reverse=True)
    data = open_dataset(generate(tmp_path / "made", per_class=12, test_per_class=3, imbalance=6))
    assert np.array(data.counts("train")) + np.array(data.counts("val")) == pytest.approx(
        list(class_sizes(12, 6).values())
    )
    assert data.counts("test") == (3,) * 6


@pytest.mark.parametrize("label", CLASSES)
def test_images_vary_and_are_well_exposed(label: str) -> None:
    images = np.stack([render(label, 64, (0, index)) for index in range(30)]).astype(float)
    assert np.mean((images == 0) | (images == 255)) < 0.02
    assert images.mean((1, 2)).std() > 12  # light and steel differ from image to image
    assert images.std((1, 2)).min() > 4  # and no image is flat
    assert images.std(0).mean() > 20  # every pixel varies between the images of a class


def test_larger_images_show_the_same_kind_of_surface_in_more_detail() -> None:
    """Structures have a size in the picture, not in pixels: a scratch covers as much of 128 pixels as of 64."""

    def covered(size: int) -> float:
        shares = []
        for index in range(40):
            image = render("patches", size, (1, index)).astype(float)
            smooth = ndimage.gaussian_filter(image, size / 32)
            shares.append(np.std(smooth) / np.std(image))
        return float(np.mean(shares))

    assert covered(128) == pytest.approx(covered(64), rel=0.15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 32}, "image size 32 is out of range; use 64 to 256 pixels"),
        ({"size": 257}, "image size 257"),
        ({"per_class": 0}, "0 training and 50 test images"),
        ({"imbalance": 0.5}, "imbalance 0.5 is below 1"),
        ({"imbalance": float("nan")}, "imbalance nan"),
    ],
)
def test_wrong_usage(tmp_path: Path, options: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        generate(tmp_path / "made", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "made").exists()


def test_a_full_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "keep.txt").write_text("mine")
    with pytest.raises(DataError, match="exists and is not an empty folder"):
        generate(tmp_path, per_class=1, test_per_class=1)
    assert [path.name for path in tmp_path.iterdir()] == ["keep.txt"]


def test_an_interrupted_set_leaves_nothing(tmp_path: Path) -> None:
    class Stop:
        def track(self, items, description, total=None, unit="batch"):
            yield next(iter(items))
            raise KeyboardInterrupt

        def say(self, message: str) -> None: ...

    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "made", per_class=2, test_per_class=1, progress=Stop())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_linear_model_on_pixels_stays_under_70_percent(tmp_path: Path) -> None:
    """Logistic regression, on raw pixels and on pixels freed of each image's level and contrast, at two penalties."""
    data = open_dataset(generate(tmp_path / "made", per_class=200, test_per_class=50))
    train, test = (load_images(data, split, Preprocessing((64, 64))) for split in ("train", "test"))
    pixels = [store.images[:, 0].flatten(1).float() / 255 for store in (train, test)]
    plain = [(part - part.mean(1, keepdim=True)) / part.std(1, keepdim=True) for part in pixels]
    for first, second in (pixels, plain):
        mean, deviation = first.mean(0), first.std(0)
        inputs, held_out = (first - mean) / deviation, (second - mean) / deviation
        for penalty in (1e-3, 1.0):
            linear = torch.nn.Linear(64 * 64, 6)
            optimiser = torch.optim.LBFGS(linear.parameters(), max_iter=60)

            def closure(
                linear: torch.nn.Linear = linear,
                optimiser: torch.optim.LBFGS = optimiser,
                inputs: torch.Tensor = inputs,
                penalty: float = penalty,
            ) -> torch.Tensor:
                optimiser.zero_grad()
                loss = torch.nn.functional.cross_entropy(linear(inputs), train.labels)
                loss = loss + penalty / 2 * linear.weight.square().sum()
                loss.backward()
                return loss

            optimiser.step(closure)
            with torch.no_grad():
                fitted = (linear(inputs).argmax(1) == train.labels).float().mean()
                accuracy = (linear(held_out).argmax(1) == test.labels).float().mean()
            assert fitted > 0.5  # it did learn what it could
            assert accuracy < 0.7


@pytest.mark.parametrize("label", CLASSES)
def test_the_mask_has_the_pixels_that_a_defect_changes(label: str) -> None:
    pixels, mask = render_with_mask(label, 64, (3, 1))
    assert np.array_equal(pixels, render(label, 64, (3, 1)))
    assert (mask.shape, mask.dtype) == ((64, 64), np.bool_)
    assert 0 < mask.mean() < 1


@pytest.mark.parametrize("label", CLASSES)
@pytest.mark.parametrize("gap", [0, 1, 8])
def test_boxes_are_tight_and_cover_the_mask(label: str, gap: int) -> None:
    for index in range(10):
        _, mask = render_with_mask(label, 64, (4, index))
        covered = np.zeros_like(mask)
        for left, top, right, bottom in boxes(mask, gap):
            inside = mask[top:bottom, left:right]
            assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
            covered[top:bottom, left:right] = True
        assert covered[mask].all()


@pytest.mark.parametrize("gap", [0, 1, 2, 3, 6])
def test_each_box_is_around_one_defect(gap: int) -> None:
    generator = np.random.default_rng(gap)
    for shape, density in (((9, 13), 0.3), ((20, 16), 0.1), ((24, 24), 0.03), ((1, 30), 0.2)):
        mask = generator.random(shape) < density
        pixels = np.argwhere(mask)
        # Two pixels are connected if at most `gap` rows and `gap` columns are between them.
        apart = np.abs(pixels[:, None] - pixels[None]).max(-1)
        _, defects = connected_components(apart <= gap + 1)
        expected = set()
        for defect in set(defects):
            (top, left), (bottom, right) = (reach(pixels[defects == defect], axis=0) for reach in (np.min, np.max))
            expected.add((left, top, right + 1, bottom + 1))
        found = boxes(mask, gap)
        assert {tuple(each) for each in found} == expected
        assert len(found) == len(set(defects))


def test_a_mask_without_a_defect_has_no_boxes() -> None:
    assert boxes(np.zeros((5, 7), np.bool_)).shape == (0, 4)
    assert boxes(np.ones((5, 7), np.bool_)).tolist() == [[0, 0, 7, 5]]

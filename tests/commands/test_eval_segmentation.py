"""`cfp eval` of a segmentation network compares it with masks beside the images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import cfp_cli as api
from cfp_cli.models.registry import create

Cfp = Callable[..., Any]

NET = """
from torch import nn

class Thresholds(nn.Module):
    '''Class 0 for dark pixels, 1 for bright ones, 2 never; at half the size.'''
    def __init__(self):
        super().__init__()
        self.scores = nn.Conv2d(1, 3, 1)

    def forward(self, x):
        return {"out": self.scores(nn.functional.avg_pool2d(x, 2)), "aux": x.mean((2, 3))}

def thresholds(num_classes):
    return Thresholds()
"""
NAMES = ("steel", "scratch", "hole")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, built_in: Callable[[str, str, str], str]) -> Path:
    arch = built_in("thresholds", NET, "thresholds")
    network, path = create(arch, 0), tmp_path_factory.mktemp("thresholds") / "model.pt"
    with torch.no_grad():
        network.scores.weight.copy_(torch.tensor([-1.0, 1.0, 0.0])[:, None, None, None])
        network.scores.bias.copy_(torch.tensor([0.5, -0.5, -9.0]))
    spec = api.ModelSpec(arch, NAMES, input_size=(32, 32), mean=(0.0,), std=(1.0,), channels=1)
    api.save(path, network, spec)
    return path


def draw(root: Path, count: int = 20, inner: str = "") -> Path:
    """Images with a bright rectangle of even sides, and masks that also have the class 2 and pixels of no class."""
    for folder in ("images", "masks"):
        (root / inner / folder).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pixels, mask = np.zeros((32, 32), np.uint8), np.zeros((32, 32), np.uint8)
        pixels[8:24, 4 : 8 + 2 * (index % 8)] = 255
        mask[pixels > 0] = 1
        mask[28:, 28:], mask[:2] = 2, 255
        Image.fromarray(pixels).save(root / inner / "images" / f"{index}.png")
        Image.fromarray(mask).save(root / inner / "masks" / f"{index}.png")
    return root


def test_figures_and_table(cfp: Cfp, model: Path, tmp_path: Path) -> None:
    result = cfp("eval", model, draw(tmp_path), "--json")
    assert result.code == 0, result.err
    found = result.json
    assert set(found) == {"pixel_accuracy", "mean_iou", "per_class", "confusion", "images", "pixels"}
    assert list(found["per_class"]) == list(NAMES)
    assert (found["images"], found["pixels"]) == (4, 4 * 30 * 32)
    assert found["pixel_accuracy"] > 0.95
    assert found["per_class"]["hole"] == {"iou": 0, "recall": 0, "precision": 0, "pixels": 64, "predicted": 0}
    assert found["per_class"]["scratch"]["recall"] > 0.9
    mean = sum(each["iou"] for each in found["per_class"].values()) / 3
    assert found["mean_iou"] == pytest.approx(mean)
    shown = cfp("eval", model, tmp_path)
    assert [word in shown.out for word in ("IoU", "scratch", "mean IoU", "pixel accuracy")] == [True] * 4
    assert "-: no pixel says something about it" in shown.out
    assert "next: cfp score" in shown.out


def test_splits_and_the_python_api(cfp: Cfp, model: Path, tmp_path: Path) -> None:
    for split, count in {"train": 5, "val": 3, "test": 2}.items():
        draw(tmp_path, count, split)
    found = cfp("eval", model, tmp_path, "--split", "val", "--json").json
    assert found["images"] == 3
    network = api.load(model)
    store = api.load_images(api.open_without_labels(tmp_path), "val", api.Preprocessing.of(network.spec))
    assert api.evaluate_segmentation(network, api.MaskBatches(store, 2)).mean_iou == pytest.approx(found["mean_iou"])


def unlink(masks: Path) -> None:
    for path in masks.iterdir():
        path.unlink()


def resave(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def apply(masks: Path) -> None:
        for path in masks.iterdir():
            Image.fromarray(change(np.array(Image.open(path)))).save(path)

    return apply


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (unlink, "has no mask"),
        (resave(lambda mask: np.ascontiguousarray(mask[:-1])), "has 32 x 31 pixels but its image has 32 x 32"),
        (resave(lambda mask: mask + np.uint8(7)), "contains the class index"),
        (resave(lambda mask: np.stack([mask] * 3, 2)), "has 3 channels, not class indices"),
    ],
)
def test_unusable_masks_end_in_one_line(
    cfp: Cfp, model: Path, tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    damage(draw(tmp_path) / "masks")
    result = cfp("eval", model, tmp_path)
    assert result.code == 1
    (line,) = (line for line in result.err.splitlines() if line.startswith("error:"))
    assert words in line
    assert str(tmp_path / "masks") in line


def test_masks_of_0_and_255_are_warned_of(cfp: Cfp, model: Path, tmp_path: Path) -> None:
    draw(tmp_path)
    assert "all pixels that count" not in cfp("eval", model, tmp_path).err
    resave(lambda mask: np.where(mask == 1, 255, 0).astype(np.uint8))(tmp_path / "masks")
    result = cfp("eval", model, tmp_path)
    assert result.code == 0
    assert "all pixels that count are of class 'steel'" in result.err


def test_another_number_of_class_names_is_refused(cfp: Cfp, tmp_path: Path, built_in: Callable[..., str]) -> None:
    arch = built_in("thresholds", NET, "thresholds")
    spec = api.ModelSpec(arch, NAMES[:2], input_size=(32, 32), mean=(0.0,), std=(1.0,), channels=1)
    api.save(tmp_path / "model.pt", create(arch, 0), spec)
    result = cfp("eval", tmp_path / "model.pt", draw(tmp_path / "data"))
    assert result.code == 1
    assert "3 maps but has 2 class names" in result.err

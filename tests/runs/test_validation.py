"""The comparison of a network with the original on validation images and on views of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cfp_cli.checkpoints.spec import ModelSpec, describe
from cfp_cli.data.dataset import Dataset, open_dataset
from cfp_cli.measuring.loss_rule import LossRule
from cfp_cli.runs import validation as validation_module
from cfp_cli.runs.validation import VIEWS, Validation
from cfp_cli.training.finetune import finetune
from cfp_cli.training.options import TrainOptions

SIDE, IMAGES = 16, 30
RULE = LossRule(0.5)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The folder of the original's logits."""
    return tmp_path / "cache"


class Said:
    """A progress that keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def track(self, items, description, total=None, unit="batch"):
        yield from items

    def say(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Images of class `a` have a bright centre and a bright upper left corner, those of class `b` have neither."""
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in "ab":
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for number in range(IMAGES // 2):
                pixels = generator.integers(60, 90, (SIDE, SIDE, 3), np.uint8)
                if name == "a":
                    pixels[4:12, 4:12] += 100
                    pixels[:4, :4] += 100
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return open_dataset(tmp_path)


def reader(rows: slice, columns: slice) -> nn.Module:
    """A network that says `a` where a part of the image is bright."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 2))
    weight = torch.zeros(3, SIDE, SIDE)
    weight[:, rows, columns] = 1
    weight /= weight.sum()
    with torch.no_grad():
        network[1].weight[:] = torch.stack([weight, -weight]).flatten(1)
        network[1].bias[:] = torch.tensor([-0.42, 0.42])
    return describe(network, ModelSpec("none", ("a", "b"), input_size=(SIDE, SIDE)))


CENTRE, CORNER = (slice(6, 10), slice(6, 10)), (slice(0, 3), slice(0, 3))


def test_a_network_that_is_wrong_only_on_views_fails(dataset: Dataset, cache: Path) -> None:
    said = Said()
    validation = Validation(reader(*CENTRE), dataset, 7, "geometric", 0, cache, said)
    assert (validation.views, said.lines) == (1 + VIEWS, [])
    same, other = (validation.compare(reader(*where)) for where in (CENTRE, CORNER))
    assert same.metrics == other.metrics == validation.metrics
    assert validation.metrics.accuracy == 1
    assert RULE.judge(same).passes
    assert not RULE.judge(other).passes
    assert RULE.judge(other).loss.points > 20
    # A repeated command makes the same views.
    again = Validation(reader(*CENTRE), dataset, 64, "geometric", 0, cache, said)
    assert again.compare(reader(*CORNER)) == other


def test_views_that_the_original_does_not_know_are_not_used(dataset: Dataset, cache: Path) -> None:
    said = Said()
    validation = Validation(reader(*CORNER), dataset, 7, "geometric", 0, cache, said)
    assert validation.views == 1
    assert "so only these are compared" in " ".join(said.lines)
    compared = validation.compare(reader(*CENTRE))
    assert compared.views == 1
    assert RULE.judge(compared).passes
    assert Validation(reader(*CENTRE), dataset, 7, "none", 0, cache, said).views == 1


def test_many_images_need_fewer_views(dataset: Dataset, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for most, views in ((3 * IMAGES, 4), (IMAGES - 1, 2)):
        monkeypatch.setattr(validation_module, "VIEWED", most)
        assert Validation(reader(*CENTRE), dataset, 7, "geometric", 0, cache, Said()).views == views


def test_a_repeated_command_and_a_finetuning_by_the_original_do_not_run_it_again(
    dataset: Dataset, cache: Path, tmp_path: Path
) -> None:
    seen: list[int] = []
    original = reader(*CENTRE)

    def count(module: nn.Module, _inputs: object, logits: torch.Tensor) -> None:
        # The trial of the memory format runs a copy.
        if module is original:
            seen.append(len(logits))

    original.register_forward_hook(count)
    first = Validation(original, dataset, 7, "geometric", 0, cache, Said())
    assert sum(seen) == IMAGES * (1 + VIEWS)
    again = Validation(original, dataset, 7, "geometric", 0, cache, Said())
    assert sum(seen) == IMAGES * (1 + VIEWS)
    assert again.metrics == first.metrics
    assert again.compare(reader(*CORNER)) == first.compare(reader(*CORNER))
    options = TrainOptions.preset("short", epochs=1, views=2)
    counts = []
    for number in range(2):
        files = {each: tmp_path / f"{each}{number}.pt" for each in ("out", "last")}
        finetune(reader(*CORNER), dataset, [original], options, cache_folder=cache, **files)
        counts.append(sum(seen) - IMAGES * (1 + VIEWS))
    # Once on two views of each training image, of which some are equal, and not on the validation images.
    assert counts[0] == counts[1]
    assert IMAGES <= counts[0] <= 2 * IMAGES

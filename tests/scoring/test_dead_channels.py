"""Dead channels: zeroed filters have no richness under any criterion, and are counted and stored."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from cfp_cli.scoring.criteria import Richness
from cfp_cli.scoring.dead_channels import SameMaps
from cfp_cli.scoring.score import score
from cfp_cli.scoring.scores import Scores

DEAD = (1, 2, 5)


class Net(nn.Module):
    """Zeroed filters with a bias, after SiLU, and padding of their maps in a depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.depthwise = (
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 8, 3, padding=1, groups=8),
        )
        self.second, self.head = nn.Conv2d(8, 6, 1), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.silu(self.depthwise(nn.functional.silu(self.norm(self.first(x)))))
        return self.head(torch.tanh(self.second(x)).mean((2, 3)))


def net() -> nn.Module:
    torch.manual_seed(0)
    model = Net().eval()
    nn.init.constant_(model.norm.bias, 0.7)
    with torch.no_grad():
        model.first.weight[list(DEAD)] = 0
    return model


@pytest.mark.parametrize("richness", get_args(Richness))
def test_zeroed_filters_have_no_richness(richness: Richness, tmp_path: Path) -> None:
    images = torch.rand(12, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    batches = [(images[:1], torch.zeros(1)), (images[1:8], torch.zeros(7)), (images[8:], torch.zeros(4))]
    scores = score(net(), batches, richness=richness)
    first, second = scores.sets
    assert first.dead == DEAD
    assert (first.richness[list(DEAD)] == 0).all()
    assert second.dead == ()
    assert (scores.taps[0].richness[list(DEAD)] == 0).all()
    scores.save(tmp_path / "scores.safetensors")
    assert Scores.load(tmp_path / "scores.safetensors").sets[0].dead == DEAD


def test_equal_images_make_no_channel_dead_that_is_not_constant() -> None:
    same = torch.rand(1, 3, 9, 7, generator=torch.Generator().manual_seed(0)).expand(4, 3, 9, 7)
    model = net()
    nn.init.zeros_(model.depthwise.weight[1])
    for images in (same, same[:1]):
        # Padding changes the borders of the other two, and one image cannot show that they never vary.
        assert score(model, [(images, torch.zeros(len(images)))]).sets[0].dead == (1,)


def test_parts_of_the_sample_are_merged() -> None:
    maps = torch.rand(6, 4, 3, 3)
    maps[:, 1], maps[:3, 2], maps[3:, 2] = 2.0, 0.0, 1.0
    parts = [SameMaps() for _ in range(4)]
    for part, images in zip(parts, (maps[:0], maps[:3], maps[3:4], maps[4:]), strict=True):
        part.add(images)
    for part in parts[1:]:
        parts[0].merge(part)
    assert parts[0].images == 6
    assert parts[0].dead(True).tolist() == [1]


@pytest.mark.parametrize("row", range(5))
def test_a_channel_that_differs_in_any_row_is_not_dead(row: int) -> None:
    maps = torch.rand(1, 4, 5, 3).expand(6, 4, 5, 3).clone()
    # Different in the first two images, only in a later one, and by a rounding error.
    maps[1, 0, row] += 1
    maps[5, 1, row] += 1
    maps[3, 2, row] *= 1 + 1e-7
    part = SameMaps()
    part.add(maps[:3])
    part.add(maps[3:])
    assert part.dead(True).tolist() == [2, 3]

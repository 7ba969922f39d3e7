"""Samples of feature maps: spread over the map, of limited number, the same for any batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import cfp_core
from cfp_cli.graph import channel_sets
from cfp_cli.scoring.covariances import Covariances, image_count, sample_positions, sample_size
from cfp_cli.scoring.score import score
from cfp_cli.scoring.set_scores import scored_sets


class Residual(nn.Module):
    """Two convolutions that add to one set, and a concatenation of two sets."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.third, self.last = nn.Conv2d(8, 5, 1), nn.Conv2d(13, 6, 1)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        y = (x + self.second(x)).relu()
        y = torch.cat([self.third(y).relu(), y], 1)
        return self.head(self.last(y).relu().mean((2, 3)))


def residual() -> nn.Module:
    torch.manual_seed(0)
    return Residual().eval()


@pytest.mark.parametrize("pixels", [1, 7, 49, 1000, 12544])
def test_positions_are_one_of_each_run(pixels: int) -> None:
    for count in {1, min(3, pixels), pixels}:
        found = sample_positions(pixels, count, range(20, 60), 3)
        assert found.shape == (40, count)
        starts = np.arange(count + 1) * pixels // count
        assert ((found >= starts[:-1]) & (found < starts[1:])).all()
    # Each image is the same in any batch, and images and taps differ.
    if pixels > 100:
        found = sample_positions(pixels, 5, range(20, 60), 3)
        np.testing.assert_array_equal(found[7], sample_positions(pixels, 5, range(27, 28), 3)[0])
        assert len(np.unique(found[:, 0])) > 20
        assert not np.array_equal(found, sample_positions(pixels, 5, range(20, 60), 4))


def test_positions_are_spread_evenly() -> None:
    found = sample_positions(4096, 16, range(4000), 0)
    counts = np.bincount(found.ravel() // 64, minlength=64)
    assert abs(counts / counts.mean() - 1).max() < 0.15


def test_the_number_of_samples_is_limited() -> None:
    assert sample_size(2048) == 4 * 2048
    assert sample_size(64) == 4096
    graph = channel_sets(residual(), torch.rand(1, 3, 24, 24))
    covariances = Covariances(graph, scored_sets(graph), 100_000)
    maps = {tap.node: torch.rand(2, tap.channels, 24, 24) for tap in graph.taps}
    for tap in graph.taps:
        covariances.add(tap, maps[tap.node], 0)
    for accumulator in covariances.accumulators():
        state = accumulator.state()
        assert state["added"] + len(state["waiting"]) // state["channels"] <= 2 * (1 + sample_size(5) // 100_000)


def test_images_of_loaders_are_counted() -> None:
    data = TensorDataset(torch.rand(7, 3, 4, 4), torch.zeros(7))
    assert image_count(DataLoader(data, batch_size=3)) == 7
    assert image_count([(torch.rand(2, 3, 4, 4), torch.zeros(2)), (torch.rand(1, 3, 4, 4), torch.zeros(1))]) == 3
    assert image_count(iter([])) == 64


def test_richness_of_a_set_is_that_of_all_pixels_of_its_taps() -> None:
    """So few channels and images that every pixel is a sample."""
    network = residual()
    images = torch.rand(6, 3, 12, 12)
    scores = score(network, [(images[:4], torch.zeros(4)), (images[4:], torch.zeros(2))])
    graph = channel_sets(network, images[:1])
    maps: dict[str, np.ndarray] = {}
    with torch.inference_mode():
        graph.read_taps(images, lambda tap, value: maps.__setitem__(tap.node, value.double().numpy().copy()))
    for index in scored_sets(graph):
        size = graph.sets[index].size
        total = np.zeros((size, size))
        for tap in graph.taps:
            channels = np.flatnonzero(tap.units[:, 0] == index)
            if len(channels):
                values = maps[tap.node][:, channels].transpose(1, 0, 2, 3).reshape(len(channels), -1)
                units = tap.units[channels, 1]
                covariance = np.cov(values, bias=True)
                total[np.ix_(units, units)] += covariance / np.diag(covariance).mean()
        expected = cfp_core.explained_variance(total)
        np.testing.assert_allclose(scores.by_set()[graph.sets[index].name].richness, expected, atol=1e-6)


def test_batches_do_not_change_the_richness() -> None:
    images = torch.rand(9, 3, 40, 40)
    network = residual()
    found = []
    for size in (1, 4, 9):
        batches = [(part, torch.zeros(len(part))) for part in images.split(size)]
        found.append([scores.richness for scores in score(network, batches).sets])
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-9)

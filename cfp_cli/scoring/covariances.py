"""Covariances of the units of each channel set, from a sample of its feature maps of limited size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

import cfp_core
from cfp_cli.data.images import Batches
from cfp_cli.graph import ChannelGraph, Tap

# Samples of a set of C channels: 4 C, or more if C is below 256, where products of channels are cheap.
_SAMPLES_PER_CHANNEL = 4
_SAMPLES_TIMES_CHANNELS = 1 << 18
# Assumed number of images of a loader without a length.
_ASSUMED_IMAGES = 64


def sample_size(channels: int) -> int:
    """Number of samples of a set, over all images, taps and positions."""
    return max(_SAMPLES_PER_CHANNEL * channels, _SAMPLES_TIMES_CHANNELS // channels)


def image_count(loader: Iterable[tuple[Tensor, Tensor]]) -> int:
    """Number of images that a loader yields, or an assumed number if it has no length."""
    if isinstance(loader, Batches):
        return len(loader.indices)
    if isinstance(loader, DataLoader) and isinstance(loader.sampler, Sized):
        return len(loader.sampler)
    if isinstance(loader, Sequence):
        return sum(len(images) for images, _ in loader)
    return _ASSUMED_IMAGES


def sample_positions(pixels: int, count: int, images: range, tap: int) -> NDArray[np.int64]:
    """Positions that are sampled of the maps of one tap.

    Each map is divided into equally long runs of pixels, and one position is drawn from each run. It depends only on
    the indices of image, tap and run.

    Args:
        pixels: number of pixels of a map.
        count: number of positions of each map, at most `pixels`.
        images: indices of the images in the sample.
        tap: index of the tap.

    Returns:
        Int64 [images, count], ascending in each row.
    """
    starts = np.arange(count + 1) * pixels // count
    keys = np.array([(image << 40) + (tap << 20) for image in images], np.uint64)
    offsets = _mix(np.add.outer(_mix(keys), np.arange(count, dtype=np.uint64))) % np.diff(starts).astype(np.uint64)
    return starts[:-1] + offsets.astype(np.int64)


def _mix(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Pseudorandom numbers, one for each key. Source: Steele, Lea and Flood 2014, SplitMix64."""
    keys = keys + np.uint64(0x9E3779B97F4A7C15)
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


@dataclass
class _Part:
    """The channels of one set at one tap.

    Attributes:
        set: index of the set.
        tap: index of the tap.
        channels: indices of the channels in the tap, int64 [k]; None: all channels, in order.
        columns: for each channel its index among the units of the tap, int64 [k].
        units: the units of the set that the tap contains, int64 [U].
        budget: number of samples for each image.
    """

    set: int
    tap: int
    channels: Tensor | None
    columns: Tensor
    units: NDArray[np.int64]
    budget: int
    accumulator: cfp_core.CovarianceAccumulator

    def add(self, maps: Tensor, images: range) -> None:
        """Add samples of maps [N, C, H, W]."""
        values = maps.flatten(2)
        _, channels, pixels = values.shape
        count = min(self.budget, pixels)
        if count < pixels:
            positions = torch.from_numpy(sample_positions(pixels, count, images, self.tap)).to(maps.device)
            values = values.gather(2, positions[:, None].expand(-1, channels, -1))
        samples = values.transpose(1, 2).flatten(0, 1)
        if self.channels is not None:
            samples = samples[:, self.channels.to(maps.device)]
        samples = samples.float().cpu()
        if len(self.units) < len(self.columns):
            # A unit of several channels is their sum.
            samples = torch.zeros(len(samples), len(self.units)).index_add_(1, self.columns, samples)
        self.accumulator.update(samples.numpy())


class Covariances:
    """Covariances of the units of each scored set, at each of its taps."""

    def __init__(self, graph: ChannelGraph, sets: Iterable[int], images: int) -> None:
        """Prepare the accumulators.

        Args:
            graph: the channel graph.
            sets: indices of the sets to score.
            images: number of images of the whole sample.
        """
        self._sizes = [each.size for each in graph.sets]
        self._parts: dict[str, list[_Part]] = {tap.node: [] for tap in graph.taps}
        for index in sets:
            taps = [(number, tap) for number, tap in enumerate(graph.taps) if (tap.units[:, 0] == index).any()]
            budget = -(-sample_size(self._sizes[index]) // (max(images, 1) * len(taps)))
            for number, tap in taps:
                self._parts[tap.node].append(_part(index, number, tap, budget))

    def add(self, tap: Tap, maps: Tensor, first_image: int) -> None:
        """Add samples of the maps [N, C, H, W] of consecutive images."""
        for part in self._parts[tap.node]:
            part.add(maps, range(first_image, first_image + len(maps)))

    def accumulators(self) -> list[cfp_core.CovarianceAccumulator]:
        """The accumulators, to send them to other processes."""
        return [part.accumulator for parts in self._parts.values() for part in parts]

    def merge(self, others: list[cfp_core.CovarianceAccumulator]) -> None:
        """Add the samples of another process."""
        for own, other in zip(self.accumulators(), others, strict=True):
            own.merge(other)

    def take(self, index: int, dead: NDArray[np.int64]) -> NDArray[np.float64]:
        """Sum over the taps of the covariances of a set's units [size, size]; frees the memory of the set.

        Those of a tap are divided by the mean variance of its units, so that all taps have the same weight. The
        covariance is 0 for units that a tap does not contain, and for dead units.
        """
        size = self._sizes[index]
        total: NDArray[np.float64] | None = None
        taken = [part for parts in self._parts.values() for part in parts if part.set == index]
        for node, parts in self._parts.items():
            self._parts[node] = [part for part in parts if part.set != index]
        for part in taken:
            covariance = part.accumulator.covariance()
            mean = float(np.diag(covariance).mean())
            covariance /= mean if mean > 0 else 1.0
            if len(part.units) < size:
                # The units are ascending, so that those of a tap with all units are in order.
                square = np.zeros((size, size))
                square[np.ix_(part.units, part.units)] = covariance
                covariance = square
            total = covariance if total is None else np.add(total, covariance, out=total)
        assert total is not None, "only sets with a tap are scored"
        # Padding makes the map of a dead unit vary over its positions.
        total[dead] = 0
        total[:, dead] = 0
        return total


def _part(index: int, number: int, tap: Tap, budget: int) -> _Part:
    channels = np.flatnonzero(tap.units[:, 0] == index)
    units, columns = np.unique(tap.units[channels, 1], return_inverse=True)
    if len(units) == len(columns):
        # One channel for each unit: sort the channels by unit.
        channels, columns = channels[np.argsort(columns)], np.arange(len(columns))
    everything = len(channels) == tap.channels and bool((np.diff(channels) == 1).all())
    return _Part(
        index,
        number,
        None if everything else torch.from_numpy(channels),
        torch.from_numpy(columns),
        units,
        budget,
        cfp_core.CovarianceAccumulator(len(units)),
    )


def tap_richness(tap: Tap, by_set: dict[int, NDArray[np.float64]]) -> NDArray[Any]:
    """Richness of a tap's channels [C]: that of the unit of each channel, and 0 for channels of sets without scores."""
    richness = np.zeros(tap.channels)
    for index in {int(each) for each in tap.units[:, 0]} & by_set.keys():
        channels = np.flatnonzero(tap.units[:, 0] == index)
        richness[channels] = by_set[index][tap.units[channels, 1]]
    return richness

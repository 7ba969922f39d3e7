"""Finds dead channels: channels whose feature map is the same for every image, such as those of zeroed filters.

A network learns nothing about an image from them, whatever their norm or rank. A map need not be constant over its
positions: padding changes the borders of a constant map in the next depthwise convolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Maps are the same if they differ by at most this fraction of the largest value. Vectorised functions may round
# the same value differently at different positions.
SAME = 1e-6


@dataclass
class SameMaps:
    """The channels of one tap whose maps are the same for all images so far.

    Attributes:
        images: number of images so far.
        channels: indices of these channels, int64 [k].
        first: their maps for the first image [k, H, W].
    """

    images: int = 0
    channels: Tensor | None = None
    first: Tensor | None = None

    def add(self, maps: Tensor) -> None:
        """Compare maps [N, C, H, W] with those of the first image. Only the remaining channels are read."""
        if len(maps) == 0:
            return
        self.images += len(maps)
        if self.channels is None or self.first is None:
            self.channels = torch.arange(maps.shape[1], device=maps.device)
            self.first = maps[0]
        # Most channels differ between any two images in any row of pixels, so that few remain for the other images and
        # rows.
        middle = maps.shape[2] // 2
        for part in (maps[:2], maps[2:]):
            for rows in (slice(middle, middle + 1), slice(None)):
                if len(part) and len(self.channels):
                    same = _same(part[:, self.channels, rows], self.first[:, rows], _largest(self.first))
                    self.channels, self.first = self.channels[same], self.first[same]
        self.first = self.first.clone()

    def to_cpu(self) -> None:
        """Move the maps to the CPU, so that another process can read them."""
        if self.channels is not None and self.first is not None:
            self.channels, self.first = self.channels.cpu(), self.first.cpu()

    def merge(self, other: SameMaps) -> None:
        """Add the images of another process; both must be on the CPU."""
        if other.channels is None or other.first is None:
            return
        if self.channels is None or self.first is None:
            self.images, self.channels, self.first = other.images, other.channels, other.first
            return
        self.images += other.images
        kept = torch.isin(self.channels, other.channels)
        kept_there = torch.isin(other.channels, self.channels)
        self.channels, self.first = self.channels[kept], self.first[kept]
        same = _same(other.first[kept_there][None], self.first, _largest(self.first))
        self.channels, self.first = self.channels[same], self.first[same]

    def dead(self, images_differ: bool) -> NDArray[np.int64]:
        """Indices of the dead channels, ascending.

        Args:
            images_differ: whether two of the images differ. If not, a channel is dead if its map is constant, and maps
                of one pixel say nothing.
        """
        if self.channels is None or self.first is None:
            return np.zeros(0, np.int64)
        channels = self.channels
        if not images_differ:
            pixels = self.first.flatten(1)
            first = pixels[:, :1, None]
            constant = _same(pixels.T[:, :, None, None], first, _largest(first))
            channels = channels[constant & (pixels.shape[1] > 1)]
        indices: NDArray[np.int64] = channels.cpu().numpy()
        return indices


def _same(maps: Tensor, first: Tensor, largest: Tensor) -> Tensor:
    """Whether all maps [N, k, H, W] of a channel are the same as the first one [k, H, W]; bool [k].

    `largest` [k] is the largest absolute value of the first map. `maps` and `first` may be some of its rows.
    """
    difference = (maps.float() - first.float()).abs().amax(dim=(0, 2, 3))
    return difference <= SAME * largest


def _largest(maps: Tensor) -> Tensor:
    """The largest absolute value of each map [k, H, W]; float32 [k]."""
    low, high = maps.flatten(1).float().aminmax(dim=1)
    return torch.maximum(-low, high)

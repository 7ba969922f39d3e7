"""Which views of which images a step takes: a pure function of (seed, epoch, step), so nothing need be saved."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from torch import Tensor

from cfp_cli.foundation.errors import UsageError
from cfp_cli.training.loss import Indices


class Views(Protocol):
    """The training images, V seeded views of each."""

    @property
    def key(self) -> str:
        """Hash of everything that decides the pixels."""
        ...

    @property
    def views(self) -> int:
        """V, the number of views of each image."""
        ...

    def __len__(self) -> int:
        """N, the number of images."""
        ...

    def get(self, indices: Indices, views: Indices, /) -> Tensor:
        """Images float32 [n, 3, H, W], preprocessed, for positions int64 [n] and views int64 [n]."""
        ...


class Sampler(Protocol):
    """An order of the training images for each epoch."""

    def epoch(self, epoch: int, /) -> Indices:
        """Positions int64 [draws] for an epoch, the same on every call."""
        ...


class Order:
    """The batches of every epoch, and this process's part of each.

    An image meets its V views in turn, one more each time it is drawn, from a seeded start.
    Batches of an epoch differ by at most one image in size: no small rest is left, on which batch norm would have
    little to go by.

    Args:
        sampler: the images of an epoch.
        views: the views of each.
        batch_size: images of a batch at most, over all processes.
        seed: of the views' starts.
        rank: which process this is.
        world_size: how many processes share a batch.

    Raises:
        UsageError: there are fewer than two images for each process.
    """

    def __init__(
        self, sampler: Sampler, views: Views, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        images = len(views)
        self.sampler = sampler
        self.views = views.views
        self.rank = rank
        self.world_size = world_size
        if images < 2 * world_size:
            raise UsageError(f"{images} training images are too few for {world_size} processes; use fewer processes")
        # Batch norm needs two images in each process, even where the batch size alone would leave it fewer.
        self.steps = min(math.ceil(images / batch_size), images // (2 * world_size))
        self._start = np.random.default_rng([seed, images]).integers(self.views, size=images)
        self._epoch = -1
        self._batches: list[tuple[Indices, Indices]] = []

    def batch(self, epoch: int, step: int) -> tuple[Indices, Indices, int]:
        """This process's images int64 [n] and views int64 [n] of a step, and the size of the whole batch."""
        if epoch != self._epoch:
            self._batches = self._plan(epoch)
            self._epoch = epoch
        images, views = self._batches[step]
        part = slice(self.rank, None, self.world_size)
        return images[part], views[part], len(images)

    def _plan(self, epoch: int) -> list[tuple[Indices, Indices]]:
        drawn = np.asarray(self.sampler.epoch(epoch), dtype=np.int64)
        views = (self._start[drawn] + epoch + _earlier(drawn)) % self.views
        return list(zip(np.array_split(drawn, self.steps), np.array_split(views, self.steps), strict=True))


def step_seed(seed: int, epoch: int, step: int, rank: int) -> int:
    """A seed for what a step draws by itself, such as dropout."""
    return int(np.random.SeedSequence([seed, epoch, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _earlier(drawn: Indices) -> Indices:
    """How often each draw's image was drawn before it in the same epoch."""
    by_image = np.argsort(drawn, kind="stable")
    ordered = drawn[by_image]
    counts = np.empty_like(drawn)
    counts[by_image] = np.arange(len(drawn)) - np.searchsorted(ordered, ordered)
    return counts

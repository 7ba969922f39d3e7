"""The images and views of each optimiser step, as a pure function of (seed, epoch, step), so no state is saved."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from torch import Tensor

from cfp_cli.foundation.errors import UsageError
from cfp_cli.training.loss import Indices


class ViewSource(Protocol):
    """The training images, with V seeded views of each."""

    @property
    def key(self) -> str:
        """Hash of everything that the pixels depend on."""
        ...

    @property
    def views(self) -> int:
        """The number of views of each image, V."""
        ...

    def __len__(self) -> int:
        """The number of images, N."""
        ...

    def get(self, image_indices: Indices, view_indices: Indices, /) -> Tensor:
        """Preprocessed images float32 [n, 3, H, W] for image indices int64 [n] and view indices int64 [n]."""
        ...


class ImageSampler(Protocol):
    """Chooses the images of each epoch and their order."""

    def epoch(self, epoch: int, /) -> Indices:
        """Image indices int64 [draws] of an epoch. Every call returns the same."""
        ...


class BatchPlan:
    """The batches of every epoch, and the part of each batch that this process computes.

    The first view of an image is seeded. Each further draw of the image uses its next view, so that all V views are
    used equally often. The sizes of the batches of an epoch differ by at most one, because batch norm learns little
    from a small last batch.

    Args:
        sampler: chooses the images of an epoch.
        views: the training images and their views.
        batch_size: largest number of images in a batch, summed over all processes.
        seed: seed of the first views.
        rank: rank of this process.
        world_size: number of processes that share a batch.

    Raises:
        UsageError: there are fewer than two images per process.
    """

    def __init__(
        self, sampler: ImageSampler, views: ViewSource, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        images = len(views)
        self.sampler = sampler
        self.views = views.views
        self.rank = rank
        self.world_size = world_size
        if images < 2 * world_size:
            raise UsageError(f"{images} training images are too few for {world_size} processes; use fewer processes")
        # Batch norm needs two images in each process, so a small batch size may be exceeded.
        self.steps_per_epoch = min(math.ceil(images / batch_size), images // (2 * world_size))
        self._first_view = np.random.default_rng([seed, images]).integers(self.views, size=images)
        self._planned_epoch = -1
        self._batches: list[tuple[Indices, Indices]] = []

    def batch(self, epoch: int, step: int) -> tuple[Indices, Indices, int]:
        """Image indices int64 [n] and view indices int64 [n] of this process, and the size of the full batch."""
        if epoch != self._planned_epoch:
            self._batches = self._plan(epoch)
            self._planned_epoch = epoch
        images, views = self._batches[step]
        shard = slice(self.rank, None, self.world_size)
        return images[shard], views[shard], len(images)

    def _plan(self, epoch: int) -> list[tuple[Indices, Indices]]:
        drawn = np.asarray(self.sampler.epoch(epoch), dtype=np.int64)
        views = (self._first_view[drawn] + epoch + _earlier_draws(drawn)) % self.views
        return list(
            zip(np.array_split(drawn, self.steps_per_epoch), np.array_split(views, self.steps_per_epoch), strict=True)
        )


def step_seed(seed: int, epoch: int, step: int, rank: int) -> int:
    """The seed of random layers, such as dropout, in one step."""
    return int(np.random.SeedSequence([seed, epoch, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _earlier_draws(drawn: Indices) -> Indices:
    """For each draw, how often the same image was drawn before in the epoch."""
    by_image = np.argsort(drawn, kind="stable")
    ordered = drawn[by_image]
    counts = np.empty_like(drawn)
    counts[by_image] = np.arange(len(drawn)) - np.searchsorted(ordered, ordered)
    return counts

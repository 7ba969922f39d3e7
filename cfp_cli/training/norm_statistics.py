"""Statistics of batch norm that belong to the weights of a network in training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cfp_cli.pruning.recalibrate import recalibrate
from cfp_cli.training.batch_plan import ViewSource
from cfp_cli.training.loss import Indices
from cfp_cli.training.options import TrainOptions

# Images for one estimate. With the 4 pixels of the smallest maps, the variance of a channel is then 3 % off.
IMAGES = 512


def update_statistics(model: nn.Module, views: ViewSource, options: TrainOptions, epoch: int) -> None:
    """Re-estimate the statistics of all batch norms of a network on training views, in place.

    The running statistics of training lag behind the weights: with momentum 0.01, as in several networks of
    torchvision, by a hundred steps. Those of averaged weights are an average over other weights. This does not run
    a network without batch norm.

    Args:
        model: the network.
        views: the training images and their views.
        options: the training options; batch size and seed count.
        epoch: index of the epoch; with the seed it decides the sample, so that a resumed run uses the same one.
    """
    if options.freeze_norm or not any(
        isinstance(module, _BatchNorm) and module.track_running_stats for module in model.modules()
    ):
        return
    generator = np.random.default_rng([options.seed, epoch, 1])
    images = generator.permutation(len(views))[:IMAGES]
    chosen = generator.integers(views.views, size=len(images))
    batches = max(len(images) // options.batch_size, 1)
    recalibrate(model, _Batches(views, np.array_split(images, batches), np.array_split(chosen, batches)))


@dataclass(frozen=True)
class _Batches:
    """Batches of views, without labels."""

    views: ViewSource
    images: list[Indices]
    chosen: list[Indices]

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, chosen in zip(self.images, self.chosen, strict=True):
            yield self.views.get(images, chosen), torch.empty(0)

"""Samplers choose the images of each epoch.

The representation teacher is trained with `instance` sampling, the class-balanced teacher with `balanced` sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cfp_cli.data.choices import Sampling
from cfp_cli.foundation.errors import UsageError

Int64 = npt.NDArray[np.int64]


class Sampler:
    """Draws the images of each epoch. The same seed and epoch always give the same images.

    Args:
        sampling: `instance`: every image once, shuffled. `balanced`: each draw picks one of the classes with equal
            probability, then one of its images, with replacement. `sqrt`: like `balanced`, but the probability of a
            class is proportional to the square root of its size.
        labels: int64 [N], the class of each image.
        seed: seed of all epochs.

    Raises:
        UsageError: `sampling` is unknown.
    """

    def __init__(self, sampling: Sampling, labels: Tensor | Sequence[int] | Int64, seed: int) -> None:
        if sampling not in get_args(Sampling):
            raise UsageError(f"unknown sampler '{sampling}'; use one of {', '.join(get_args(Sampling))}")
        self.sampling = sampling
        self.seed = seed
        values = np.asarray(labels, np.int64)
        # Image indices sorted by class, and where each class starts in that order.
        self._by_class = np.argsort(values, kind="stable")
        _, self._starts, self._counts = np.unique(values[self._by_class], return_index=True, return_counts=True)

    def __len__(self) -> int:
        return len(self._by_class)

    def epoch(self, number: int) -> Int64:
        """The image indices of an epoch, int64 [N]."""
        generator = np.random.default_rng([self.seed, number])
        if self.sampling == "instance":
            return generator.permutation(len(self))
        weights = np.ones(len(self._counts)) if self.sampling == "balanced" else np.sqrt(self._counts)
        classes = generator.choice(len(weights), size=len(self), p=weights / weights.sum())
        offsets = generator.integers(0, self._counts[classes])
        chosen: Int64 = self._by_class[self._starts[classes] + offsets]
        return chosen


def draw_probability(sampling: Sampling, labels: Tensor) -> Tensor:
    """The probability that one draw of a sampler returns each image, float64 [N].

    `instance`: 1/N. `balanced`: 1/(K n_c) for K classes and n_c images in the class of the image. `sqrt`: proportional
    to 1/sqrt(n_c).

    Args:
        sampling: the kind of sampler.
        labels: int64 [N], the class of each image.
    """
    counts = torch.bincount(labels).double()[labels]
    weights = {"instance": torch.ones_like(counts), "balanced": 1 / counts, "sqrt": 1 / counts.sqrt()}[sampling]
    return weights / weights.sum()

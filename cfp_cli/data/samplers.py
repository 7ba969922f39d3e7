"""Which images an epoch shows: the sampling is what makes a representation teacher or a classifier teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from torch import Tensor

from cfp_cli.foundation.errors import UsageError

Kind = Literal["instance", "balanced", "sqrt"]
Int64 = npt.NDArray[np.int64]


class Sampler:
    """Draws the images of each epoch, the same for the same seed and epoch.

    Args:
        kind: `instance`: every image once, shuffled. `balanced`: each draw picks one of the classes with equal
            probability, then one of its images, with replacement. `sqrt`: the same with class probabilities
            proportional to the square root of the class sizes, between the two.
        labels: int64 [N], the class of each image.
        seed: of all epochs.

    Raises:
        UsageError: there is no such kind.
    """

    def __init__(self, kind: Kind, labels: Tensor | Sequence[int] | Int64, seed: int) -> None:
        if kind not in get_args(Kind):
            raise UsageError(f"unknown sampler '{kind}'; use one of {', '.join(get_args(Kind))}")
        self.kind = kind
        self.seed = seed
        values = np.asarray(labels, np.int64)
        # Class after class, the images that belong to it.
        self._order = np.argsort(values, kind="stable")
        _, self._starts, self._counts = np.unique(values[self._order], return_index=True, return_counts=True)

    def __len__(self) -> int:
        return len(self._order)

    def epoch(self, number: int) -> Int64:
        """The images of an epoch: int64 [N] positions, N the number of images."""
        generator = np.random.default_rng([self.seed, number])
        if self.kind == "instance":
            return generator.permutation(len(self))
        weights = np.ones(len(self._counts)) if self.kind == "balanced" else np.sqrt(self._counts)
        classes = generator.choice(len(weights), size=len(self), p=weights / weights.sum())
        within = generator.integers(0, self._counts[classes])
        chosen: Int64 = self._order[self._starts[classes] + within]
        return chosen


def sampler(kind: Kind, labels: Tensor | Sequence[int] | Int64, seed: int) -> Sampler:
    """The sampler of that name; see `Sampler`."""
    return Sampler(kind, labels, seed)

"""Run a network on several batches at once, node by node, without running any node again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from cfp_cli.graph.trace import Run, TracedGraph


class Stream:
    """Runs of one network on several batches. Each run stops before a node and continues from there later.

    A stopped run holds the values that later nodes read. If they do not fit the budget together with those of the other
    runs, the run starts again from its images. The results are the same.

    Args:
        traced: the network.
        batches: images float32 [N, C, H, W]; they are not changed.
        budget: bytes of the values that all stopped runs may hold together.
        memory_format: memory format of the images that the network reads.
    """

    def __init__(
        self,
        traced: TracedGraph,
        batches: Sequence[Tensor],
        budget: int,
        memory_format: torch.memory_format = torch.preserve_format,
    ) -> None:
        self.traced = traced
        self.batches = batches
        self.budget = budget
        self.memory_format = memory_format
        self._stopped: dict[int, tuple[Run, int]] = {}

    @property
    def held(self) -> int:
        """Bytes of the values that stopped runs hold."""
        return sum(size for _, size in self._stopped.values())

    def advance(self, number: int, stop: Node | None, on_value: Callable[[Node, Any], None] | None = None) -> Run:
        """Continue the run of a batch to a node, and return the run.

        Args:
            number: index of the batch.
            stop: the first node that is not run; None runs to the end. It is not before the node of the last call.
            on_value: called with each operator call that is run and its value. A later in-place operator may overwrite
                the value after the call. A run that starts again calls it for earlier nodes again.
        """
        run, _ = self._stopped.pop(number, (None, 0))
        run = run or Run(self.traced, self.batches[number], memory_format=self.memory_format)
        for node, value in run.until(stop):
            if on_value is not None:
                on_value(node, value)
        size = run.held
        if stop is not None and self.held + size <= self.budget:
            self._stopped[number] = (run, size)
        return run

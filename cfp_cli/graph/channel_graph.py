"""The channel graph: which channels are kept or dropped together, where their maps are read, what forbids pruning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import Node

from cfp_cli.graph.computed import ComputedWeight
from cfp_cli.graph.constraints import Balance, Floor, Link, Units, links_between
from cfp_cli.graph.trace import Execute, TracedGraph


@dataclass(frozen=True)
class ChannelSet:
    """Channels that one decision prunes, such as a residual stream with every layer that adds to it.

    Attributes:
        name: full name of the first module that makes them, in network order.
        size: number of units; the channels of a unit are kept or dropped together.
        producers: modules that make the channels.
        consumers: modules that read them.
        frozen: reasons why all of them must be kept; empty where the set may be pruned.
        taps: indices into `ChannelGraph.taps` of the feature maps that show them.
    """

    name: str
    size: int
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    frozen: tuple[str, ...]
    taps: tuple[int, ...] = ()


@dataclass(frozen=True)
class Tap:
    """Feature maps as a consumer reads them.

    Attributes:
        node: the operator call whose value they are.
        name: module that makes them; unique.
        channels: number of channels.
        units: for every channel its set and its unit in the set, int64 [channels, 2]; -1 for channels of no set.
        dim: dimension of the value that its channels lie on.
        outer: how many runs of all images the first dimension of the value has, as in [tokens * N, C].
        inner: how many rows of each image follow each other in it, as in [N * windows, tokens, C].
    """

    node: str
    name: str
    channels: int
    units: Units
    dim: int = 1
    outer: int = 1
    inner: int = 1

    def maps(self, value: Tensor) -> Tensor:
        """The value of the tap's node as feature maps [N, C, H, W]; a view where possible."""
        dim = self.dim
        if self.outer * self.inner > 1:
            value = value.reshape(self.outer, -1, self.inner, *value.shape[1:]).transpose(0, 1)
            dim += 2
        if value.dim() == 4 and dim == 1:
            return value
        maps = value.movedim(dim, 1)
        return maps.flatten(3) if maps.dim() > 4 else maps.reshape(*maps.shape, *([1] * (4 - maps.dim())))


@dataclass(frozen=True)
class Dimension:
    """One dimension of a parameter or buffer that shrinks with its channels.

    Attributes:
        name: full name of the tensor.
        dim: the dimension.
        units: running number of the unit at each index, int64 [size], -1 for indices that are always kept; or
            [groups, size] where each group of a grouped convolution has its own channels at the same indices.
        follows: the node in whose order of channels the tensor is sliced; None for the original order.
    """

    name: str
    dim: int
    units: Units
    follows: Node | None = None


@dataclass
class ChannelGraph:
    """The channel sets of a network.

    Attributes:
        traced: the traced network.
        sets: channel sets in network order.
        taps: feature maps to score, in network order; every prunable set has one.
        balances: constraints of equal counts.
        floors: constraints of at least one channel, where keeping one unit of every set is not enough.
        dimensions: what is sliced when channels are dropped.
        frozen: (module, operator, reason) of each operator that prevents pruning, except for the logits.
        labels: by node, running unit numbers that broadcast over its value, -1 for none.
        masked: by node, the names of the arguments through which it reads channels.
        mixing: nodes that compute over channels.
        producing: nodes that make new channels.
        computed: weights that are computed from a parameter in each pass, by their node.
        rearranged: whether an operator rearranges channels by their index, such as a channel shuffle.
        positions: by weight of a convolution or linear layer, multiply-adds of one weight element for one image.
        sizes: number of elements of every parameter that an output needs, by name.
        unneeded: number of elements of every other parameter; no target counts them.
        widths: whether a rebuild changes the channel counts that modules keep in attributes, see `widths.py`.
    """

    traced: TracedGraph
    sets: tuple[ChannelSet, ...]
    taps: tuple[Tap, ...]
    balances: tuple[Balance, ...]
    floors: tuple[Floor, ...]
    dimensions: tuple[Dimension, ...]
    frozen: tuple[tuple[str, str, str], ...]
    labels: dict[Node, list[Units]]
    masked: dict[Node, tuple[str, ...]]
    mixing: frozenset[Node]
    producing: frozenset[Node]
    rearranged: bool
    positions: dict[str, int]
    sizes: dict[str, int]
    computed: dict[Node, ComputedWeight] = field(default_factory=dict)
    unneeded: dict[str, int] = field(default_factory=dict)
    widths: bool = False
    offsets: NDArray[np.int64] = field(init=False, repr=False)
    index: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Number all units: `offsets` has the number of the first unit of every set, and the number of all units."""
        self.offsets = np.concatenate([[0], np.cumsum([each.size for each in self.sets])]).astype(np.int64)
        self.index = {each.name: index for index, each in enumerate(self.sets)}

    @property
    def prunable(self) -> tuple[ChannelSet, ...]:
        """Sets that may be pruned."""
        return tuple(each for each in self.sets if not each.frozen)

    @property
    def left_alone(self) -> tuple[str, ...]:
        """What is not pruned, in words: one line for each operator and reason, and one for parameters without use."""
        found: dict[str, list[str]] = {}
        for module, operator, reason in self.frozen:
            found.setdefault(f"{operator}: {reason}", []).append(module or "forward")
        more = {why: f" and {len(where) - 1} more" if len(where) > 1 else "" for why, where in found.items()}
        lines = [f"not pruned: {where[0]}{more[why]}: {why}" for why, where in found.items()]
        if self.unneeded:
            first, count = next(iter(self.unneeded)), len(self.unneeded)
            others = f" and {count - 1} more" if count > 1 else ""
            lines.append(
                f"not counted: {first}{others}: no output needs these {sum(self.unneeded.values()):,} parameters"
            )
        return tuple(lines)

    @cached_property
    def parameters(self) -> dict[str, dict[int, Units]]:
        """Running unit numbers by parameter or buffer and dimension."""
        found: dict[str, dict[int, Units]] = {}
        for dimension in self.dimensions:
            found.setdefault(dimension.name, {})[dimension.dim] = dimension.units
        return found

    @cached_property
    def links(self) -> tuple[Link, ...]:
        """Sets that constraints link; each link can be decided by itself."""
        return links_between((each.size for each in self.sets), self.balances, self.floors)

    def read_taps(
        self, x: Tensor, on_maps: Callable[[Tap, Tensor], None], execute: Execute | None = None
    ) -> list[Tensor]:
        """Run the network and show the maps of every tap while they are hot.

        Args:
            x: images float32 [N, C, H, W]; they are not changed.
            on_maps: called with a tap and its maps [N, C, H, W]. A later in-place operator may overwrite the maps after
                the call.
            execute: runs an operator call on its arguments; the default calls the operator.

        Returns:
            The outputs of the network.
        """
        taps = {tap.node: tap for tap in self.taps}
        return self.traced.run(x, taps, lambda node, value: on_maps(taps[node], taps[node].maps(value)), execute)

    @cached_property
    def tensor_counts(self) -> TensorCounts:
        """The numbers of elements of all tensors, by which units are kept."""
        return TensorCounts(self)


class TensorCounts:
    """Numbers of elements of all parameters and weights as products of kept indices, in a few array operations."""

    def __init__(self, graph: ChannelGraph) -> None:
        # The weight of a layer may be a buffer, such as a fixed filter.
        fixed = [name for name in graph.positions if name not in graph.sizes]
        self.sizes = graph.sizes | {name: graph.traced.model.get_buffer(name).numel() for name in fixed}
        used = [dimension for dimension in graph.dimensions if dimension.name in self.sizes]
        self.names = [dimension.name for dimension in used]
        # Balanced blocks keep equally many channels each, so the mean over groups is the count of any of them.
        self.groups = np.array([1 if d.units.ndim == 1 else len(d.units) for d in used])
        self.full = np.array([d.units.shape[-1] for d in used])
        self.units = np.concatenate([d.units.reshape(-1) for d in used]) if used else np.empty(0, np.int64)
        self.starts = np.concatenate([[0], np.cumsum([d.units.size for d in used])])[:-1].astype(np.int64)

    def at(self, mask: NDArray[np.bool_]) -> dict[str, int]:
        """Number of elements of every parameter and weight, where the units of `mask` are kept."""
        sizes = dict(self.sizes)
        if len(self.units) == 0:
            return sizes
        counts = np.add.reduceat(mask[self.units].astype(np.int64), self.starts) // self.groups
        for name, count, full in zip(self.names, counts, self.full, strict=True):
            sizes[name] = sizes[name] // int(full) * int(count)
        return sizes

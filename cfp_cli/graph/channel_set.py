"""Channel sets: which channels stay or go together, where they are read, and what forbids their removal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch.fx import Node

from cfp_cli.graph.trace import TracedGraph

Units = NDArray[np.int64]
Kept = Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True)
class ChannelSet:
    """Channels that are pruned by one decision, such as a residual stream with everything that adds to it.

    Attributes:
        name: full name of the first module that makes them, in network order.
        size: number of units; a unit is the channels that stay or go together.
        producers: modules that make the channels.
        consumers: modules that read them.
        frozen: why they must all stay; empty where they may be pruned.
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
    """

    node: str
    name: str
    channels: int
    units: Units


@dataclass(frozen=True)
class Balance:
    """Groups that must keep the same number of units, or nearly so.

    Attributes:
        groups: for every group the (set, unit) of its channels, int64 [channels, 2].
        slack: how many units more than any later group a group may keep, never fewer: 0 for equal groups, 1 for groups
            that a channel shuffle interleaves, of which the first comes first.
    """

    groups: tuple[Units, ...]
    slack: int = 0

    @property
    def sets(self) -> frozenset[int]:
        """Indices of the sets that have channels in it."""
        return frozenset(int(index) for group in self.groups for index in np.unique(group[:, 0]))


@dataclass(frozen=True)
class Floor:
    """Units of which at least one must stay, because some layer would be left without any channel.

    Attributes:
        module: tensor that would be empty.
        units: (set, unit), int64 [units, 2].
    """

    module: str
    units: Units


@dataclass(frozen=True)
class Dimension:
    """One dimension of a parameter or buffer that shrinks with its channels.

    Attributes:
        name: full name of the tensor.
        dim: the dimension.
        units: running number of the unit at each position, int64 [size], -1 for positions that always stay; or
            [groups, size] where each group of a grouped convolution has its own channels at the same positions.
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
        balances: equal-count constraints on what may be kept.
        floors: at-least-one constraints that keeping one unit of every set does not satisfy by itself.
        dimensions: what is sliced when channels go.
        frozen: (module, operator, reason) of whatever keeps channels from being pruned, the logits left out.
        labels: by node, running unit numbers that broadcast over its value, -1 for none.
        masked: by node, the names of arguments through which it consumes channels.
        mixing: nodes that compute over channels.
        made: nodes that make new channels.
        rearranged: whether any operator rearranges channels by their place, such as a channel shuffle.
        places: by weight of a convolution or linear layer, multiply-adds of one weight element for one image, per use.
        sizes: number of elements of every parameter, by name.
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
    made: frozenset[Node]
    rearranged: bool
    places: dict[str, int]
    sizes: dict[str, int]
    _counting: _Counting | None = field(default=None, repr=False)

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Running number of the first unit of every set, and the number of all units."""
        return np.concatenate([[0], np.cumsum([group.size for group in self.sets])]).astype(np.int64)

    @property
    def prunable(self) -> tuple[ChannelSet, ...]:
        """Sets that may be pruned."""
        return tuple(group for group in self.sets if not group.frozen)

    @property
    def left_alone(self) -> tuple[str, ...]:
        """What keeps channels from being pruned, in words: one line for each operator and reason."""
        found: dict[str, list[str]] = {}
        for module, operator, reason in self.frozen:
            found.setdefault(f"{operator}: {reason}", []).append(module or "forward")
        more = {why: f" and {len(where) - 1} more" if len(where) > 1 else "" for why, where in found.items()}
        return tuple(f"left alone: {where[0]}{more[why]}: {why}" for why, where in found.items())

    @property
    def parameters(self) -> dict[str, dict[int, Units]]:
        """Running unit numbers by parameter or buffer and dimension."""
        found: dict[str, dict[int, Units]] = {}
        for dimension in self.dimensions:
            found.setdefault(dimension.name, {})[dimension.dim] = dimension.units
        return found

    def mask(self, kept: Kept) -> NDArray[np.bool_]:
        """Which units stay, by running number, with one further True at the end that index -1 finds.

        Sets that `kept` leaves out stay whole.

        Raises:
            KeyError: `kept` names a set that is not here.
        """
        offsets = self.offsets
        mask = np.ones(int(offsets[-1]) + 1, bool)
        index = {group.name: place for place, group in enumerate(self.sets)}
        for name, units in kept.items():
            start = int(offsets[index[name]])
            mask[start : start + self.sets[index[name]].size] = False
            mask[start + np.asarray(units, np.int64)] = True
        return mask

    def parameters_at(self, kept: Kept) -> int:
        """Number of parameters of the network that keeps the units `kept` of each set; nothing is rebuilt."""
        sizes = self._counts().sizes_at(self.mask(kept))
        return sum(sizes[name] for name in self.sizes)

    def macs_at(self, kept: Kept) -> int:
        """Multiply-adds of convolutions and linear layers for one image at the traced input size."""
        sizes = self._counts().sizes_at(self.mask(kept))
        return sum(places * sizes[name] for name, places in self.places.items())

    def linked_sets(self) -> list[list[int]]:
        """Sets that balances or floors link, as lists of indices; each list can be decided by itself."""
        links = [set(balance.sets) for balance in self.balances]
        links += [{int(index) for index in floor.units[:, 0]} for floor in self.floors]
        joined: list[set[int]] = []
        for link in links:
            apart = [other for other in joined if not other & link]
            joined = [*apart, link.union(*(other for other in joined if other & link))]
        return sorted(sorted(link) for link in joined)

    def linked_balances(self) -> Iterator[tuple[list[int], list[Sequence[Units]]]]:
        """Sets that balances link, as lists of indices, each with the groups of all balances among them."""
        remaining = list(self.balances)
        while remaining:
            linked = set(remaining[0].sets)
            grown = True
            while grown:
                more = linked.union(*(balance.sets for balance in remaining if balance.sets & linked))
                grown, linked = more != linked, more
            inside = [balance for balance in remaining if balance.sets & linked]
            remaining = [balance for balance in remaining if not balance.sets & linked]
            yield sorted(linked), [balance.groups for balance in inside]

    def _counts(self) -> _Counting:
        if self._counting is None:
            self._counting = _Counting(self)
        return self._counting


class _Counting:
    """Numbers of elements of all parameters and weights as products of kept positions, in a few array operations."""

    def __init__(self, graph: ChannelGraph) -> None:
        # The weight of a layer may be a buffer, such as a fixed filter.
        fixed = [name for name in graph.places if name not in graph.sizes]
        self.sizes = graph.sizes | {name: graph.traced.model.get_buffer(name).numel() for name in fixed}
        used = [dimension for dimension in graph.dimensions if dimension.name in self.sizes]
        self.names = [dimension.name for dimension in used]
        # Balanced groups keep equally many positions each, so the mean over groups is the count of any of them.
        self.groups = np.array([1 if d.units.ndim == 1 else len(d.units) for d in used])
        self.full = np.array([d.units.shape[-1] for d in used])
        self.units = np.concatenate([d.units.reshape(-1) for d in used]) if used else np.empty(0, np.int64)
        self.starts = np.concatenate([[0], np.cumsum([d.units.size for d in used])])[:-1].astype(np.int64)

    def sizes_at(self, mask: NDArray[np.bool_]) -> dict[str, int]:
        """Number of elements of every parameter and weight, where the units of `mask` stay."""
        sizes = dict(self.sizes)
        if len(self.units) == 0:
            return sizes
        counts = np.add.reduceat(mask[self.units].astype(np.int64), self.starts) // self.groups
        for name, count, full in zip(self.names, counts, self.full, strict=True):
            sizes[name] = sizes[name] // int(full) * int(count)
        return sizes

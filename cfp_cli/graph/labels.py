"""Which channel every element of every tensor belongs to.

An *atom* is one index along one dimension of one parameter, such as output channel 3 of a convolution. The labels of a
value are an integer array that broadcasts over its shape: dimensions along which the label does not change have size 1,
and -1 stands for "no channel". Operators that move data move labels. Operators that combine elements unite their atoms.
`Facts` collects these findings, and `derive` resolves them once at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch.fx import Node

from cfp_cli.graph.computed import ComputedWeight

Labels = NDArray[np.int64]
Reason = tuple[str, str, str]


@dataclass(frozen=True)
class Value:
    """A tensor's shape at the traced batch size and its labels.

    Attributes:
        shape: sizes, the batch included.
        labels: atoms, as many dimensions as `shape`, each of full size or 1.
        dynamic: for each dimension, whether its size follows the batch size.
        lanes: in values whose channels were split into groups, the group of each label, of the latest split first; -1
            for channels that were joined to them and not split. They move with the labels.
    """

    shape: tuple[int, ...]
    labels: Labels
    dynamic: tuple[bool, ...]
    lanes: tuple[Labels, ...] = ()

    @property
    def varying(self) -> tuple[int, ...]:
        """Dimensions along which labels change."""
        return tuple(dim for dim, size in enumerate(self.labels.shape) if size > 1)

    @property
    def on_batch(self) -> bool:
        """Whether labels change along a dimension that contains the batch."""
        return any(self.dynamic[dim] for dim in self.varying)

    @property
    def labelled(self) -> bool:
        """Whether any element has a label."""
        return bool((self.labels >= 0).any())

    def along(self, dim: int) -> Labels:
        """Labels along one dimension in full size, where they change along no other [shape[dim]]."""
        return (
            np.broadcast_to(self.labels.reshape(-1), (self.shape[dim],))
            if self.labels.size == 1
            else self.labels.reshape(-1)
        )


def unlabelled(shape: Sequence[int], dynamic: Sequence[bool]) -> Value:
    """A value without labels."""
    return Value(tuple(shape), np.full((1,) * len(shape), -1), tuple(dynamic))


def along_only(size: int, ndim: int, dim: int) -> tuple[int, ...]:
    """Shape that is `size` at one dimension and 1 elsewhere."""
    return tuple(size if axis == dim else 1 for axis in range(ndim))


@dataclass
class Facts:
    """What the operator table finds out about atoms.

    Attributes:
        count: number of atoms.
        unions: pairs of arrays of atoms that belong together.
        frozen: atoms that must be kept, with the index of the reason.
        reasons: (module, operator, reason).
        balances: lists of groups of atoms, all groups keeping the same number, with the slack allowed.
        parts: parts of channels that the code cuts at sizes without a common divisor; each must keep a channel.
        dims: labels of parameters and buffers by name and dimension: [size], or [groups, size] for the dimension of a
            grouped convolution's weight that each group reads differently.
        heads: labels of queries and values that products read, with their heads or, where there are none, channels.
        mapped: (channels that it reads, channels that it makes) of every layer without groups.
        producers: (module, parameter, atoms) of every operator that makes new channels, in network order.
        consumers: (module, atoms, node name) of every operator that reads channels, in network order.
        readers: the node whose channels a dimension of a parameter follows, by name and dimension.
        computed: weights that are computed from a parameter, by their node.
        rearranged: whether an operator rearranges channels by their index.
    """

    count: int = 0
    unions: list[tuple[Labels, Labels]] = field(default_factory=list)
    frozen: list[tuple[Labels, int]] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)
    balances: list[tuple[list[Labels], int]] = field(default_factory=list)
    parts: list[Labels] = field(default_factory=list)
    dims: dict[tuple[str, int], Labels] = field(default_factory=dict)
    heads: list[Labels] = field(default_factory=list)
    mapped: list[tuple[Labels, Labels]] = field(default_factory=list)
    producers: list[tuple[str, str, Labels]] = field(default_factory=list)
    consumers: list[tuple[str, Labels, str]] = field(default_factory=list)
    readers: dict[tuple[str, int], Node] = field(default_factory=dict)
    computed: dict[Node, ComputedWeight] = field(default_factory=dict)
    rearranged: bool = False

    def new(self, shape: tuple[int, ...]) -> Labels:
        """New atoms."""
        size = int(np.prod(shape))
        atoms = np.arange(self.count, self.count + size).reshape(shape)
        self.count += size
        return atoms

    def atoms(self, name: str, dim: int, shape: tuple[int, ...]) -> Labels:
        """Atoms of one dimension of a parameter or buffer, new at first use.

        Raises:
            ValueError: the same dimension was used with another grouping.
        """
        atoms = self.dims.setdefault((name, dim), np.empty(0, np.int64))
        if atoms.size == 0:
            atoms = self.dims[name, dim] = self.new(shape)
        if atoms.shape != shape:
            raise ValueError(f"{name} is used with different groups")
        return atoms

    def unite(self, first: Labels, second: Labels, reason: Reason) -> None:
        """Keep or drop the atoms of two broadcastable arrays together; freeze an atom that meets -1."""
        first, second = np.broadcast_arrays(first, second)
        both = (first >= 0) & (second >= 0)
        self.unions.append((first[both], second[both]))
        lone = (first >= 0) ^ (second >= 0)
        if lone.any():
            self.freeze(np.maximum(first, second)[lone], reason)

    def freeze(self, atoms: Labels, reason: Reason) -> None:
        """Freeze atoms: they must be kept."""
        atoms = np.unique(atoms[atoms >= 0])
        if atoms.size == 0:
            return
        if reason not in self.reasons:
            self.reasons.append(reason)
        self.frozen.append((atoms, self.reasons.index(reason)))

    def balance(self, blocks: Labels, lanes: tuple[Labels, ...] = ()) -> None:
        """Require that blocks of atoms [blocks, size] keep the same number each.

        Where lanes were interleaved before, kept channels fall into the right blocks under a further condition. Of two
        blocks, the first must keep equally many channels of every lane, or one more of the earlier lanes. Of more
        blocks, each must keep equally many of every lane.
        """
        if len(blocks) < 2:
            return
        self.balances.append((list(blocks), 0))
        if not lanes:
            return
        if len(blocks) == 2:
            self._interleaved(blocks[0], tuple(lane[0] for lane in lanes))
            return
        names = np.unique(lanes[0])
        rows = zip(blocks, lanes[0], strict=True)
        self.balances.append(([row[lane == name] for row, lane in rows for name in names], 0))

    def _interleaved(self, atoms: Labels, lanes: tuple[Labels, ...]) -> None:
        """Require that lanes in the first part of an interleaved row keep equally many, or one more in earlier ones."""
        names = [int(name) for name in np.unique(lanes[0]) if name >= 0]
        if len(names) > 1:
            self.balances.append(([atoms[lanes[0] == name] for name in names], 1))
        for name in names if len(lanes) > 1 else ():
            inside = lanes[0] == name
            self._interleaved(atoms[inside], tuple(lane[inside] for lane in lanes[1:]))


def shrink(labels: Labels) -> Labels:
    """The same labels with size 1 along every dimension in which they do not change."""
    for dim in range(labels.ndim):
        if labels.shape[dim] > 1:
            first = labels.take([0], dim)
            if (labels == first).all():
                labels = first
    return labels


def reshape(value: Value, shape: tuple[int, ...]) -> Labels:
    """Labels of `value` after a reshape to `shape`; dimensions without channels are never expanded."""
    pieces = list(_matching(value.shape, shape))
    expanded = tuple(
        size if any(dim in old and any(value.labels.shape[d] > 1 for d in old) for old, _ in pieces) else 1
        for dim, size in enumerate(value.shape)
    )
    labels = np.broadcast_to(value.labels, expanded)
    target = [1] * len(shape)
    for old, new in pieces:
        if any(value.labels.shape[dim] > 1 for dim in old):
            for dim in new:
                target[dim] = shape[dim]
    return shrink(np.ascontiguousarray(labels).reshape(target))


def _matching(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Split two shapes of equal product into the smallest runs of dimensions of equal product."""
    pieces: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        first_i, first_j = i, j
        left = right = 1
        if i < len(old):
            left, i = old[i], i + 1
        if j < len(new):
            right, j = new[j], j + 1
        while left != right:
            if left < right:
                left, i = left * old[i], i + 1
            else:
                right, j = right * new[j], j + 1
        pieces.append((tuple(range(first_i, i)), tuple(range(first_j, j))))
    return pieces


def split_lanes(value: Value, shape: tuple[int, ...]) -> Labels | None:
    """Where a reshape splits the one dimension of channels into several, the group of each label; None elsewhere."""
    labels = reshape(value, shape)
    varying = [dim for dim, size in enumerate(labels.shape) if size > 1]
    if len(value.varying) != 1 or len(varying) < 2:
        return None
    leading = [size if dim in varying[:-1] else 1 for dim, size in enumerate(labels.shape)]
    return np.broadcast_to(np.arange(int(np.prod(leading))).reshape(leading), labels.shape)


def split_groups(value: Value, shape: tuple[int, ...]) -> list[tuple[Labels, tuple[Labels, ...]]]:
    """Groups that must keep equal counts where a reshape splits one dimension of channels into several.

    It assumes that the leading parts are fixed numbers of groups, and that the last part is the channels of a group.

    Returns:
        For each dimension that is split, the labels [groups, channels] and the lanes of the same shape.
    """
    found = []
    labels = reshape(value, shape)
    for old, new in _matching(value.shape, shape):
        split = [dim for dim in new if labels.shape[dim] > 1]
        if len([dim for dim in old if value.labels.shape[dim] > 1]) == 1 and len(split) > 1:
            size, last = labels.shape[split[-1]], split[-1]
            lanes = tuple(lane.reshape(labels.shape) for lane in value.lanes if lane.size == labels.size)
            rows, *lane_rows = (np.moveaxis(each, last, -1).reshape(-1, size) for each in (labels, *lanes))
            found.append((rows, tuple(lane_rows)))
    return found

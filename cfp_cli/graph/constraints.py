"""Constraints on how many units are kept, and the sets that they link."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import gcd, lcm

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from cfp_cli.graph.components import linked

Units = NDArray[np.int64]


@dataclass(frozen=True)
class Balance:
    """Blocks of channels that must keep the same number of units, or nearly so.

    Attributes:
        blocks: for every block the (set, unit) of its channels, int64 [channels, 2].
        slack: how many more units than any later block a block may keep, never fewer: 0 for equal blocks, 1 for blocks
            that a channel shuffle interleaves, of which the first comes first.
    """

    blocks: tuple[Units, ...]
    slack: int = 0

    @cached_property
    def sets(self) -> frozenset[int]:
        """Indices of the sets that have channels in it."""
        return frozenset(np.unique(np.concatenate([block[:, 0] for block in self.blocks])).tolist())


@dataclass(frozen=True)
class Floor:
    """Units of which at least one must be kept, since a layer would have no channels otherwise.

    Attributes:
        module: tensor that would be empty.
        units: (set, unit), int64 [units, 2].
    """

    module: str
    units: Units

    @cached_property
    def sets(self) -> frozenset[int]:
        """Indices of the sets that have units in it."""
        return frozenset(np.unique(self.units[:, 0]).tolist())


@dataclass(frozen=True)
class Cells:
    """Units of linked sets by the constraints that count them: no constraint distinguishes two units of a cell.

    Attributes:
        of_unit: cell of each unit of the linked sets, in their order, int64 [units].
        sizes: number of units of each cell, int64 [cells].
        sets: position among the linked sets of the set that each cell is part of, int64 [cells].
        matrix: coefficient of each unit of a cell in each constraint, [constraints, cells].
        low: lowest value of each constraint.
        high: highest value of each constraint.
    """

    of_unit: NDArray[np.int64]
    sizes: NDArray[np.int64]
    sets: NDArray[np.int64]
    matrix: sparse.csc_array
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True)
class Link:
    """Sets that constraints link, directly or through other sets; they are decided together.

    Attributes:
        sets: indices of the sets, ascending.
        sizes: number of units of each of them.
        balances: constraints of equal counts on them.
        floors: constraints of at least one unit on them.
    """

    sets: tuple[int, ...]
    sizes: tuple[int, ...]
    balances: tuple[Balance, ...]
    floors: tuple[Floor, ...]

    @cached_property
    def blocks(self) -> NDArray[np.int64] | None:
        """Units of one set by block, int64 [blocks, units], if its only constraint is that these blocks are equal."""
        if len(self.sets) > 1 or self.floors or any(balance.slack for balance in self.balances):
            return None
        partitions = {tuple(block[:, 1].tobytes() for block in balance.blocks) for balance in self.balances}
        blocks = [block[:, 1] for block in self.balances[0].blocks]
        if len(partitions) > 1 or len({len(block) for block in blocks}) > 1:
            return None
        if not np.array_equal(np.sort(np.concatenate(blocks)), np.arange(self.sizes[0])):
            return None
        return np.stack(blocks)

    @cached_property
    def cells(self) -> Cells:
        """The cells of the linked sets."""
        owner = np.repeat(np.arange(len(self.sizes)), self.sizes)
        rows = list(self._rows())
        matrix = sparse.csc_array(
            sparse.coo_array(
                (
                    np.concatenate([signs for signs, _, _, _ in rows]),
                    (
                        np.repeat(np.arange(len(rows)), [len(units) for _, units, _, _ in rows]),
                        np.concatenate([units for _, units, _, _ in rows]),
                    ),
                ),
                shape=(len(rows), len(owner)),
            )
        )
        matrix.sum_duplicates()
        number: dict[tuple[int, bytes, bytes], int] = {}
        of_unit = np.empty(len(owner), np.int64)
        for unit, (start, end) in enumerate(zip(matrix.indptr, matrix.indptr[1:], strict=False)):
            entries = slice(int(start), int(end))
            key = (int(owner[unit]), matrix.indices[entries].tobytes(), matrix.data[entries].tobytes())
            of_unit[unit] = number.setdefault(key, len(number))
        first = np.unique(of_unit, return_index=True)[1]
        return Cells(
            of_unit,
            np.bincount(of_unit),
            owner[first],
            matrix[:, first],
            np.array([low for _, _, low, _ in rows]),
            np.array([high for _, _, _, high in rows]),
        )

    @cached_property
    def step(self) -> NDArray[np.int64] | None:
        """Units of each cell in the smallest step that keeps all counts equal, int64 [cells].

        None if more than one number decides how many units the cells keep. Transformers have such steps: a channel of
        the embedding with its part of all heads.
        """
        rows = self.cells.matrix[self.cells.low == self.cells.high].toarray().astype(np.int64)
        pairs = [(row.nonzero()[0].tolist(), row) for row in rows]
        if any(len(cells) not in (0, 2) for cells, _ in pairs):
            return None
        parts = {0: Fraction(1)}
        for _ in self.cells.sizes:
            for cells, row in pairs:
                for one, two in (cells, cells[::-1]) if cells else ():
                    if one in parts and two not in parts:
                        parts[two] = -parts[one] * int(row[one]) / int(row[two])
        if len(parts) < len(self.cells.sizes) or min(parts.values()) <= 0:
            return None
        common = lcm(*(part.denominator for part in parts.values()))
        step = np.array([int(parts[cell] * common) for cell in range(len(parts))], np.int64)
        step //= gcd(*step.tolist())
        return step if not (rows @ step).any() else None

    def _rows(self) -> Iterator[tuple[NDArray[np.float64], NDArray[np.int64], float, float]]:
        """Coefficients, units, lowest and highest value of each constraint; a unit may occur several times."""
        for balance in self.balances:
            pairs = list(zip(balance.blocks, balance.blocks[1:], strict=False))
            if balance.slack:
                pairs.append((balance.blocks[0], balance.blocks[-1]))
            for first, second in pairs:
                signs = np.concatenate([np.ones(len(first)), -np.ones(len(second))])
                yield signs, self._positions(np.concatenate([first, second])), 0.0, float(balance.slack)
        for floor in self.floors:
            yield np.ones(len(floor.units)), self._positions(floor.units), 1.0, float(len(floor.units))

    def _positions(self, units: Units) -> NDArray[np.int64]:
        starts = np.cumsum(self.sizes) - self.sizes
        return np.asarray(starts[np.searchsorted(self.sets, units[:, 0])] + units[:, 1], np.int64)


def links_between(sizes: Iterable[int], balances: Iterable[Balance], floors: Iterable[Floor]) -> tuple[Link, ...]:
    """The sets that constraints link, in ascending order; each link can be decided by itself.

    Args:
        sizes: number of units of every set.
        balances: constraints of equal counts.
        floors: constraints of at least one unit.
    """
    every, balances, floors = list(sizes), list(balances), list(floors)
    return tuple(
        Link(
            tuple(sets),
            tuple(every[index] for index in sets),
            tuple(balance for balance in balances if balance.sets <= set(sets)),
            tuple(floor for floor in floors if floor.sets <= set(sets)),
        )
        for sets in linked([*(balance.sets for balance in balances), *(floor.sets for floor in floors)])
    )

"""Random selections of channels that keep to every equal-count constraint."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse

from cfp_cli.graph.channel_set import ChannelGraph

SECONDS = 20.0


def random_kept(
    graph: ChannelGraph, fraction: float, rng: np.random.Generator
) -> tuple[dict[str, NDArray[np.int64]], list[str]]:
    """Choose at random about `fraction` of the units of every prunable set, at least one, dropping at least one.

    Args:
        graph: channel sets.
        fraction: part of every set to keep, in (0, 1).
        rng: source of randomness.

    Returns:
        Indices of the kept units by set name, and the names of sets that cannot lose any: those stay whole.
    """
    kept: dict[str, NDArray[np.int64]] = {}
    stuck: list[str] = []
    linked: set[str] = set()
    for indices, balances in graph.linked_balances():
        sizes = [graph.sets[index].size for index in indices]
        starts = dict(zip(indices, np.concatenate([[0], np.cumsum(sizes)]).tolist(), strict=False))
        total = sum(sizes)
        rows = [np.zeros((0, total))]
        for groups in balances:
            counts = np.zeros((len(groups), total))
            for row, members in zip(counts, groups, strict=True):
                np.add.at(row, [starts[int(index)] + int(unit) for index, unit in members], 1.0)
            rows.append(np.diff(counts, axis=0))
        names = [graph.sets[index].name for index in indices]
        linked.update(names)
        floors = [floor for floor in graph.floors if int(floor.units[0, 0]) in starts]
        least = np.zeros((len(floors), total))
        for row, floor in zip(least, floors, strict=True):
            row[[starts[int(index)] + int(unit) for index, unit in floor.units if int(index) in starts]] = 1
        chosen = _solve(np.concatenate(rows), least, sizes, fraction, rng)
        if chosen is None:
            stuck += names
            continue
        for index, name, size in zip(indices, names, sizes, strict=True):
            kept[name] = np.flatnonzero(chosen[starts[index] : starts[index] + size])
    for group in graph.prunable:
        if group.name not in linked and group.size > 1:
            count = min(max(round(fraction * group.size), 1), group.size - 1)
            kept[group.name] = np.sort(rng.permutation(group.size)[:count])
    for floor in graph.floors:
        names = [graph.sets[index].name for index in floor.units[:, 0]]
        if not any(
            name in linked or name not in kept or unit in kept[name]
            for name, unit in zip(names, floor.units[:, 1], strict=True)
        ):
            place = int(rng.integers(len(names)))
            kept[names[place]] = np.union1d(kept[names[place]], floor.units[place, 1:])
    return kept, stuck


def _solve(
    equal: NDArray[np.float64], least: NDArray[np.float64], sizes: list[int], fraction: float, rng: np.random.Generator
) -> NDArray[np.bool_] | None:
    """A random 0/1 choice with `equal @ choice = 0`, `least @ choice >= 1`; None where there is none."""
    total, sets = sum(sizes), len(sizes)
    member = np.zeros((sets, total))
    for row, (start, size) in enumerate(zip(np.cumsum([0, *sizes[:-1]]), sizes, strict=True)):
        member[row, start : start + size] = 1
    # Two columns a set take up what its count deviates from the wanted one.
    above_below = np.kron(np.eye(sets), np.array([[1.0, -1.0]]))
    wanted = np.array([min(max(round(fraction * size), 1), max(size - 1, 1)) for size in sizes])
    none = np.zeros((len(equal), 2 * sets))
    some = np.zeros((len(least), 2 * sets))
    result = optimize.milp(
        np.concatenate([-rng.random(total), np.full(2 * sets, 3.0)]),
        integrality=np.concatenate([np.ones(total), np.zeros(2 * sets)]),
        bounds=optimize.Bounds(0, np.concatenate([np.ones(total), np.full(2 * sets, np.inf)])),
        constraints=[
            optimize.LinearConstraint(sparse.csr_array(np.hstack([equal, none])), 0, 0),
            optimize.LinearConstraint(sparse.csr_array(np.hstack([least, some])), 1, np.inf),
            optimize.LinearConstraint(sparse.csr_array(np.hstack([member, above_below])), wanted, wanted),
            optimize.LinearConstraint(
                sparse.csr_array(np.hstack([member, 0 * above_below])), 1, np.maximum(np.array(sizes) - 1, 1)
            ),
        ],
        options={"time_limit": SECONDS, "mip_rel_gap": 0.05},
    )
    return None if result.x is None else result.x[:total] > 0.5

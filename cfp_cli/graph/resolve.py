"""Resolve what following the channels found: sets and units of atoms, and the constraints between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cfp_cli.foundation.errors import GraphError
from cfp_cli.graph.channel_graph import ChannelSet, Dimension
from cfp_cli.graph.components import components
from cfp_cli.graph.constraints import Balance, Floor, Units
from cfp_cli.graph.labels import Facts, Labels
from cfp_cli.graph.propagate import Propagation


@dataclass(frozen=True)
class Resolved:
    """Sets of atoms.

    Attributes:
        set_of: set of every atom, -1 for none.
        unit_of: unit of every atom in its set.
        names: module name of every set.
        sizes: number of units of every set.
    """

    set_of: NDArray[np.int64]
    unit_of: NDArray[np.int64]
    names: list[str]
    sizes: list[int]


def resolve(propagation: Propagation) -> Resolved:
    """Units are components of united atoms; sets are units that share a producer's output."""
    facts = propagation.facts
    unit_class = components(facts.count, facts.unions)
    if not facts.producers:
        raise GraphError("the network has no convolution or linear layer; there is nothing to prune")
    outputs = [np.unique(unit_class[atoms.reshape(-1)]) for _, _, atoms in facts.producers]
    set_class = components(int(unit_class.max()) + 1, [(units[:-1], units[1:]) for units in outputs])
    index_of: dict[int, int] = {}
    names: list[str] = []
    order: list[list[int]] = []
    unit_index: dict[int, int] = {}
    for module, parameter, atoms in facts.producers:
        classes = unit_class[atoms.reshape(-1)]
        index = index_of.setdefault(int(set_class[classes[0]]), len(names))
        if index == len(names):
            names.append(_unique(owner(module, parameter), names))
            order.append([])
        for unit in classes.tolist():
            if unit not in unit_index:
                unit_index[unit] = len(order[index])
                order[index].append(unit)
    set_of_class = np.full(int(unit_class.max()) + 1, -1)
    unit_of_class = np.full(int(unit_class.max()) + 1, -1)
    for index, units in enumerate(order):
        set_of_class[units] = index
        unit_of_class[units] = np.arange(len(units))
    return Resolved(set_of_class[unit_class], unit_of_class[unit_class], names, [len(units) for units in order])


def owner(module: str, parameter: str) -> str:
    """Name of the module that makes channels, or of the module whose parameter a function of the network uses."""
    return module or parameter.removesuffix(".weight")


def _unique(name: str, taken: list[str]) -> str:
    number, found = 2, name
    while found in taken:
        found, number = f"{name}#{number}", number + 1
    return found


def attention_ties(facts: Facts, resolved: Resolved) -> list[tuple[list[Labels], int]]:
    """Equal counts of the channels that an attention reads and those of all its heads, where both are equally many."""
    found: dict[bytes, tuple[list[Labels], int]] = {}
    unit = resolved.set_of * (int(resolved.unit_of.max()) + 1) + resolved.unit_of
    for labels in facts.heads:
        heads = labels[labels >= 0]
        read, made = next(((read, made) for read, made in facts.mapped if np.isin(heads, made).all()), (heads, heads))
        own = made[np.isin(unit[made], unit[heads])]
        # One layer may make queries, keys and values: one channel of each three that are dropped together counts.
        times, rest = divmod(len(own), len(read))
        if times and not rest:
            own = own[np.argsort(unit[own], kind="stable")][::times]
            found[own.tobytes()] = ([read, own], 0)
    return list(found.values())


def equal_counts(given: list[tuple[list[Labels], int]], resolved: Resolved, frozen: list[list[str]]) -> list[Balance]:
    """Equal-count constraints; a set that is tied to a frozen one by equal counts is frozen too."""
    found: list[tuple[Balance, list[int]]] = []
    for atoms, slack in given:
        blocks = [
            np.stack([resolved.set_of[block], resolved.unit_of[block]], 1)
            for block in (each[each >= 0] for each in atoms)
        ]
        blocks = [block[block[:, 0] >= 0] for block in blocks]
        sizes = [len(block) for block in blocks]
        if sum(sizes) == 0 or (slack == 0 and (_same(blocks) or _whole(blocks))):
            continue
        balance = Balance(tuple(blocks), slack)
        if max(sizes) - min(sizes) > slack:
            for index in balance.sets:
                frozen[index].append("its equal blocks contain channels that are not prunable")
        found.append((balance, sorted(balance.sets)))
    changed = True
    while changed:
        changed = False
        for _, sets in found:
            bound = [index for index in sets if frozen[index]]
            for index in sets:
                if bound and not frozen[index]:
                    frozen[index].append(f"equal counts tie it to {resolved.names[bound[0]]}, which is frozen")
                    changed = True
    return [balance for balance, sets in found if not frozen[sets[0]]]


def least_counts(
    dimensions: tuple[Dimension, ...], parts: list[Units], sets: tuple[ChannelSet, ...], offsets: Units
) -> list[Floor]:
    """Dimensions and parts that show only part of their sets, and could be empty while every set keeps a unit."""
    found: dict[bytes, Floor] = {}
    named = [(dimension.name, dimension.units) for dimension in dimensions if dimension.units.ndim == 1]
    for name, numbers in [*named, *(("a part of a split", part) for part in parts)]:
        units = np.unique(numbers)
        if units[0] < 0:
            continue
        owners = np.searchsorted(offsets, units, "right") - 1
        in_full = any((owners == index).sum() == sets[index].size or sets[index].frozen for index in np.unique(owners))
        if not in_full:
            found.setdefault(units.tobytes(), Floor(name, np.stack([owners, units - offsets[owners]], 1)))
    return list(found.values())


def _same(blocks: list[Units]) -> bool:
    first = blocks[0][np.lexsort(blocks[0].T)]
    return all(each.shape == first.shape and (each[np.lexsort(each.T)] == first).all() for each in blocks[1:])


def _whole(blocks: list[Units]) -> bool:
    """Whether each of several blocks of channels, such as a head, is kept or dropped whole."""
    return all(len(block) > 1 and (block == block[0]).all() for block in blocks)

"""From the facts that following the channels gave to channel sets, taps and constraints."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn
from torch.fx import Node

from cfp_cli.foundation.errors import GraphError
from cfp_cli.graph.channel_set import Balance, ChannelGraph, ChannelSet, Dimension, Floor, Units
from cfp_cli.graph.labels import Labels, Value
from cfp_cli.graph.probe import probe
from cfp_cli.graph.propagate import LOGITS, Followed, propagate
from cfp_cli.graph.taps import find_taps
from cfp_cli.graph.trace import BATCH, TracedGraph, argument, operator_of, shape_of, trace


@dataclass(frozen=True)
class _Resolved:
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


def derive(model: nn.Module, example: Tensor) -> ChannelGraph:
    """Trace a network, find its channel sets, and see each of them rebuild right once.

    Args:
        model: a convolutional classifier; left as it was.
        example: images float32 [N, 3, H, W] on the network's device; only their shape counts.

    Raises:
        GraphError: the network cannot be traced or has no channels.
    """
    traced = trace(model, example)
    followed = propagate(traced)
    return probe(model, example, lambda refused: assemble(traced, followed, refused))


def assemble(traced: TracedGraph, followed: Followed, refused: dict[str, str]) -> ChannelGraph:
    """Channel sets from what is known of atoms; `refused` gives further reasons to freeze sets, by set name."""
    ledger = followed.ledger
    resolved = _resolve(followed)
    offsets = np.concatenate([[0], np.cumsum(resolved.sizes)]).astype(np.int64)
    running = np.where(resolved.set_of >= 0, offsets[resolved.set_of] + resolved.unit_of, -1)
    running = np.append(running, -1)
    labels = {node: [running[value.labels] for value in _listed(result)] for node, result in followed.values.items()}
    frozen, notes = _frozen(followed, resolved)
    for name, reason in refused.items():
        frozen[resolved.names.index(name)].append(reason)
    balances = _balances(followed, resolved, frozen)
    dimensions = tuple(
        Dimension(name, dim, running[atoms], ledger.readers.get((name, dim)))
        for (name, dim), atoms in sorted(ledger.dims.items())
        if (running[atoms] >= 0).any()
    )
    taps = find_taps(traced, followed, resolved.set_of, resolved.unit_of, [not reasons for reasons in frozen])
    for index, reasons in enumerate(frozen):
        if not reasons and not any((tap.units[:, 0] == index).any() for tap in taps):
            reasons.append("nothing reads it")
    sets = tuple(
        ChannelSet(
            name=name,
            size=resolved.sizes[index],
            producers=_users(
                [(_owner(module, name), atoms) for module, name, atoms in ledger.producers], resolved, index
            ),
            consumers=_users([(module, atoms) for module, atoms, _ in ledger.consumers], resolved, index),
            frozen=tuple(dict.fromkeys(frozen[index])),
            taps=tuple(place for place, tap in enumerate(taps) if (tap.units[:, 0] == index).any()),
        )
        for index, name in enumerate(resolved.names)
    )
    parameters = dict(traced.model.named_parameters())
    return ChannelGraph(
        traced=traced,
        sets=sets,
        taps=tuple(taps),
        balances=tuple(balances),
        floors=tuple(_floors(dimensions, sets, offsets)),
        dimensions=dimensions,
        frozen=tuple(notes),
        labels=labels,
        masked=followed.masked,
        mixing=followed.mixing,
        made=followed.made,
        rearranged=ledger.rearranged,
        places=_places(traced),
        sizes={name: parameter.numel() for name, parameter in parameters.items()},
    )


def _listed(result: Value | list[Value]) -> list[Value]:
    return result if isinstance(result, list) else [result]


def _classes(count: int, pairs: list[tuple[Labels, Labels]]) -> NDArray[np.int64]:
    """Class of each of `count` items, where pairs belong together."""
    first = np.concatenate([pair[0].reshape(-1) for pair in pairs]) if pairs else np.empty(0, np.int64)
    second = np.concatenate([pair[1].reshape(-1) for pair in pairs]) if pairs else np.empty(0, np.int64)
    graph = sparse.coo_array((np.ones(len(first), bool), (first, second)), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _resolve(followed: Followed) -> _Resolved:
    """Units are classes of united atoms; sets are units that share a producer's output."""
    ledger = followed.ledger
    unit_class = _classes(ledger.count, ledger.unions)
    if not ledger.producers:
        raise GraphError("the network has no convolution or linear layer; there is nothing to prune")
    made = [np.unique(unit_class[atoms.reshape(-1)]) for _, _, atoms in ledger.producers]
    set_class = _classes(int(unit_class.max()) + 1, [(units[:-1], units[1:]) for units in made])
    index_of: dict[int, int] = {}
    names: list[str] = []
    order: list[list[int]] = []
    placed: dict[int, int] = {}
    for module, parameter, atoms in ledger.producers:
        classes = unit_class[atoms.reshape(-1)]
        index = index_of.setdefault(int(set_class[classes[0]]), len(names))
        if index == len(names):
            names.append(_unique(_owner(module, parameter), names))
            order.append([])
        for unit in classes.tolist():
            if unit not in placed:
                placed[unit] = len(order[index])
                order[index].append(unit)
    set_of_class = np.full(int(unit_class.max()) + 1, -1)
    unit_of_class = np.full(int(unit_class.max()) + 1, -1)
    for index, units in enumerate(order):
        set_of_class[units] = index
        unit_of_class[units] = np.arange(len(units))
    return _Resolved(set_of_class[unit_class], unit_of_class[unit_class], names, [len(units) for units in order])


def _owner(module: str, parameter: str) -> str:
    """Name of what makes channels: the module, or the one whose parameter a function of the network uses directly."""
    return module or parameter.removesuffix(".weight")


def _unique(name: str, taken: list[str]) -> str:
    number, found = 2, name
    while found in taken:
        found, number = f"{name}#{number}", number + 1
    return found


def _frozen(followed: Followed, resolved: _Resolved) -> tuple[list[list[str]], list[tuple[str, str, str]]]:
    """Reasons by set, and those that touch any set."""
    ledger = followed.ledger
    frozen: list[list[str]] = [[] for _ in resolved.names]
    notes: dict[tuple[str, str, str], None] = {}
    for atoms, place in ledger.frozen:
        reason = ledger.reasons[place]
        module, operator, text = reason
        touched = [int(index) for index in np.unique(resolved.set_of[atoms]) if index >= 0]
        for index in touched:
            frozen[index].append(text if reason == LOGITS else f"{module or 'forward'}: {operator}: {text}")
        if touched and reason != LOGITS:
            notes[reason] = None
    return frozen, list(notes)


def _balances(followed: Followed, resolved: _Resolved, frozen: list[list[str]]) -> list[Balance]:
    """Equal-count constraints; a set that is tied to a frozen one by equal counts is frozen too."""
    found: list[tuple[Balance, list[int]]] = []
    for groups, slack in followed.ledger.balances:
        members = [
            np.stack([resolved.set_of[g], resolved.unit_of[g]], 1) for g in (group[group >= 0] for group in groups)
        ]
        members = [group[group[:, 0] >= 0] for group in members]
        sizes = [len(group) for group in members]
        if sum(sizes) == 0 or (slack == 0 and _same(members)):
            continue
        balance = Balance(tuple(members), slack)
        if max(sizes) - min(sizes) > slack:
            for index in balance.sets:
                frozen[index].append("equal groups hold channels that belong to none")
        found.append((balance, sorted(balance.sets)))
    changed = True
    while changed:
        changed = False
        for _, sets in found:
            bound = [index for index in sets if frozen[index]]
            for index in sets:
                if bound and not frozen[index]:
                    frozen[index].append(f"equal groups tie it to {resolved.names[bound[0]]}, which is frozen")
                    changed = True
    return [balance for balance, sets in found if not frozen[sets[0]]]


def _floors(dimensions: tuple[Dimension, ...], sets: tuple[ChannelSet, ...], offsets: Units) -> list[Floor]:
    """Dimensions that lie on a part of their sets only and could be emptied while every set keeps something."""
    found: dict[bytes, Floor] = {}
    for dimension in dimensions:
        units = np.unique(dimension.units)
        if dimension.units.ndim > 1 or units[0] < 0:
            continue
        owners = np.searchsorted(offsets, units, "right") - 1
        whole = any((owners == index).sum() == sets[index].size or sets[index].frozen for index in np.unique(owners))
        if not whole:
            found.setdefault(units.tobytes(), Floor(dimension.name, np.stack([owners, units - offsets[owners]], 1)))
    return list(found.values())


def _same(groups: list[Units]) -> bool:
    first = groups[0][np.lexsort(groups[0].T)]
    return all(g.shape == first.shape and (g[np.lexsort(g.T)] == first).all() for g in groups[1:])


def _users(users: list[tuple[str, Labels]], resolved: _Resolved, index: int) -> tuple[str, ...]:
    """Modules whose atoms belong to a set, in network order."""
    found: dict[str, None] = {}
    for module, atoms in users:
        atoms = atoms[atoms >= 0]
        if (resolved.set_of[atoms] == index).any():
            found[module or "forward"] = None
    return tuple(found)


def _places(traced: TracedGraph) -> dict[str, int]:
    """How often one image uses each element of a convolution's or linear layer's weight."""
    places: dict[str, int] = {}
    for node in traced.nodes:
        name = operator_of(node) if node.op == "call_function" else ""
        if name != "linear" and not name.startswith("conv"):
            continue
        weight = argument(node, "weight")
        source = traced.sources.get(weight.name) if isinstance(weight, Node) else None
        if source is None:
            continue
        # Positions may lie in the first dimension beside the images.
        shape = shape_of(argument(node, "input") if "transpose" in name else node)
        places_of_all = math.prod(shape[:-1]) if name == "linear" else shape[0] * math.prod(shape[2:])
        places[source.name] = places.get(source.name, 0) + places_of_all // BATCH
    return places

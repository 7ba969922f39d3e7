"""Turn the facts that following the channels found into channel sets, taps and constraints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import Node

from cfp_cli.foundation.errors import GraphError
from cfp_cli.graph.channel_graph import ChannelGraph, ChannelSet, Dimension
from cfp_cli.graph.components import components
from cfp_cli.graph.constraints import Balance, Floor, Units
from cfp_cli.graph.determinism import require_deterministic
from cfp_cli.graph.labels import Facts, Labels, Value
from cfp_cli.graph.needed import unneeded_parameters
from cfp_cli.graph.operators import OPERATORS
from cfp_cli.graph.probe import passing, probe
from cfp_cli.graph.propagate import LOGITS, OUTPUTS, Propagation, propagate
from cfp_cli.graph.taps import find_taps
from cfp_cli.graph.trace import BATCH, TracedGraph, arguments_of, operator_of, trace


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
    """Trace a network, find its channel sets, and try a rebuild of each of them.

    Args:
        model: a convolutional classifier; it is not changed.
        example: images float32 [N, C, H, W] on the network's device; only their shape counts.

    Raises:
        GraphError: the network cannot be traced, has no channels, or its output is random in eval mode.
    """
    traced = trace(model, example)
    propagation = propagate(traced)

    def attempt(widths: bool, tied: bool) -> Callable[[dict[str, str]], ChannelGraph]:
        return lambda refused: replace(assemble(traced, propagation, refused, tied=tied), widths=widths)

    # Modules may keep channel counts in attributes, and an attention may take the number of channels of all its heads
    # from its input. Most networks pass as one of these; else the one with the most prunable channels counts.
    attempts = [attempt(False, False), attempt(True, False)]
    if propagation.facts.heads:
        attempts.append(attempt(True, True))
    for each in attempts:
        graph = passing(model, example, each)
        if graph is not None:
            return graph
    require_deterministic(model, example)
    graphs = [probe(model, example, each) for each in attempts]
    return max(graphs, key=lambda each: sum(channels.size for channels in each.prunable))


def assemble(
    traced: TracedGraph, propagation: Propagation, refused: dict[str, str], *, tied: bool = False
) -> ChannelGraph:
    """The channel graph from the facts about atoms.

    Args:
        traced: the network.
        propagation: the result of following its channels.
        refused: further reasons to freeze sets, by set name.
        tied: whether the heads of each attention keep as many channels together as the attention reads.
    """
    facts = propagation.facts
    resolved = _resolve(propagation)
    offsets = np.concatenate([[0], np.cumsum(resolved.sizes)]).astype(np.int64)
    running = np.where(resolved.set_of >= 0, offsets[resolved.set_of] + resolved.unit_of, -1)
    running = np.append(running, -1)
    labels = {node: [running[value.labels] for value in _listed(result)] for node, result in propagation.values.items()}
    frozen, notes = _frozen(propagation, resolved)
    for name, reason in refused.items():
        frozen[resolved.names.index(name)].append(reason)
    ties = _ties(propagation.facts, resolved) if tied else []
    balances = _balances([*propagation.facts.balances, *ties], resolved, frozen)
    dimensions = tuple(
        Dimension(name, dim, running[atoms], facts.readers.get((name, dim)))
        for (name, dim), atoms in sorted(facts.dims.items())
        if (running[atoms] >= 0).any()
    )
    taps = find_taps(traced, propagation, resolved.set_of, resolved.unit_of, [not reasons for reasons in frozen])
    for index, reasons in enumerate(frozen):
        if not reasons and not any((tap.units[:, 0] == index).any() for tap in taps):
            reasons.append("nothing reads it")
    sets = tuple(
        ChannelSet(
            name=name,
            size=resolved.sizes[index],
            producers=_users(
                [(_owner(module, name), atoms) for module, name, atoms in facts.producers], resolved, index
            ),
            consumers=_users([(module, atoms) for module, atoms, _ in facts.consumers], resolved, index),
            frozen=tuple(dict.fromkeys(frozen[index])),
            taps=tuple(number for number, tap in enumerate(taps) if (tap.units[:, 0] == index).any()),
        )
        for index, name in enumerate(resolved.names)
    )
    unneeded = unneeded_parameters(traced)
    sizes = {name: each.numel() for name, each in traced.model.named_parameters() if name not in unneeded}
    return ChannelGraph(
        traced=traced,
        sets=sets,
        taps=tuple(taps),
        balances=tuple(balances),
        floors=tuple(_floors(dimensions, [running[atoms] for atoms in facts.parts], sets, offsets)),
        dimensions=dimensions,
        frozen=tuple(notes),
        labels=labels,
        masked=propagation.masked,
        mixing=propagation.mixing,
        producing=propagation.producing,
        rearranged=facts.rearranged,
        positions={name: count for name, count in _positions(traced).items() if name not in unneeded},
        sizes=sizes,
        computed=facts.computed,
        unneeded=unneeded,
    )


def _listed(result: Value | list[Value]) -> list[Value]:
    return result if isinstance(result, list) else [result]


def _resolve(propagation: Propagation) -> _Resolved:
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
            names.append(_unique(_owner(module, parameter), names))
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
    return _Resolved(set_of_class[unit_class], unit_of_class[unit_class], names, [len(units) for units in order])


def _owner(module: str, parameter: str) -> str:
    """Name of the module that makes channels, or of the module whose parameter a function of the network uses."""
    return module or parameter.removesuffix(".weight")


def _unique(name: str, taken: list[str]) -> str:
    number, found = 2, name
    while found in taken:
        found, number = f"{name}#{number}", number + 1
    return found


def _frozen(propagation: Propagation, resolved: _Resolved) -> tuple[list[list[str]], list[tuple[str, str, str]]]:
    """Reasons by set, and all reasons that affect a set."""
    facts = propagation.facts
    frozen: list[list[str]] = [[] for _ in resolved.names]
    notes: dict[tuple[str, str, str], None] = {}
    for atoms, index in facts.frozen:
        reason = facts.reasons[index]
        module, operator, text = reason
        touched = [int(each) for each in np.unique(resolved.set_of[atoms]) if each >= 0]
        for each in touched:
            frozen[each].append(text if reason in (LOGITS, OUTPUTS) else f"{module or 'forward'}: {operator}: {text}")
        if touched and reason not in (LOGITS, OUTPUTS):
            notes[reason] = None
    return frozen, list(notes)


def _ties(facts: Facts, resolved: _Resolved) -> list[tuple[list[Labels], int]]:
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


def _balances(given: list[tuple[list[Labels], int]], resolved: _Resolved, frozen: list[list[str]]) -> list[Balance]:
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


def _floors(
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


def _users(users: list[tuple[str, Labels]], resolved: _Resolved, index: int) -> tuple[str, ...]:
    """Modules whose atoms belong to a set, in network order."""
    found: dict[str, None] = {}
    for module, atoms in users:
        atoms = atoms[atoms >= 0]
        if (resolved.set_of[atoms] == index).any():
            found[module or "forward"] = None
    return tuple(found)


def _positions(traced: TracedGraph) -> dict[str, int]:
    """How many positions of one image each element of a layer's weight multiplies, by name of the weight."""
    found: dict[str, int] = {}
    for node in traced.nodes:
        entry = OPERATORS.get(operator_of(node)) if node.op == "call_function" else None
        if entry is None or entry.positions is None:
            continue
        weight = arguments_of(node)["weight"]
        source = traced.sources.get(weight.name) if isinstance(weight, Node) else None
        if source is not None:
            found[source.name] = found.get(source.name, 0) + entry.positions(node) // BATCH
    return found

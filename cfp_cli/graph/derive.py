"""Turn the facts that following the channels found into channel sets, taps and constraints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from torch import Tensor, nn
from torch.fx import Node

from cfp_cli.graph.channel_graph import ChannelGraph, ChannelSet, Dimension
from cfp_cli.graph.computed import ComputedWeight
from cfp_cli.graph.determinism import require_deterministic
from cfp_cli.graph.labels import Labels, Value
from cfp_cli.graph.needed import unneeded_parameters
from cfp_cli.graph.operators import OPERATORS
from cfp_cli.graph.probe import passing, probe
from cfp_cli.graph.propagate import LOGITS, OUTPUTS, Propagation, propagate
from cfp_cli.graph.resolve import Resolved, attention_ties, equal_counts, least_counts, owner, resolve
from cfp_cli.graph.taps import find_taps
from cfp_cli.graph.trace import BATCH, TracedGraph, arguments_of, operator_of, trace
from cfp_cli.graph.widths import keeps_part_sizes


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
    if keeps_part_sizes(traced):  # another forward pass may use them, which no trial sees
        attempts.reverse()
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
    resolved = resolve(propagation)
    offsets = np.concatenate([[0], np.cumsum(resolved.sizes)]).astype(np.int64)
    running = np.where(resolved.set_of >= 0, offsets[resolved.set_of] + resolved.unit_of, -1)
    running = np.append(running, -1)
    labels = {node: [running[value.labels] for value in _listed(result)] for node, result in propagation.values.items()}
    frozen, notes = _frozen(propagation, resolved)
    for name, reason in refused.items():
        frozen[resolved.names.index(name)].append(reason)
    ties = attention_ties(propagation.facts, resolved) if tied else []
    balances = equal_counts([*propagation.facts.balances, *ties], resolved, frozen)
    dimensions = tuple(
        Dimension(name, dim, running[atoms], facts.readers.get((name, dim)))
        for (name, dim), atoms in sorted(facts.dims.items())
        if (running[atoms] >= 0).any()
    )
    taps = find_taps(traced, propagation, resolved.set_of, resolved.unit_of, [not reasons for reasons in frozen])
    for index, reasons in enumerate(frozen):
        if not reasons and not any((tap.units[:, 0] == index).any() for tap in taps):
            reasons.append("no feature maps of the images show it")
    sets = tuple(
        ChannelSet(
            name=name,
            size=resolved.sizes[index],
            producers=_users(
                [(owner(module, name), atoms) for module, name, atoms in facts.producers], resolved, index
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
        floors=tuple(least_counts(dimensions, [running[atoms] for atoms in facts.parts], sets, offsets)),
        dimensions=dimensions,
        frozen=tuple(notes),
        labels=labels,
        masked=propagation.masked,
        mixing=propagation.mixing,
        producing=propagation.producing,
        rearranged=facts.rearranged,
        positions={name: count for name, count in _positions(traced, facts.computed).items() if name not in unneeded},
        sizes=sizes,
        computed=facts.computed,
        unneeded=unneeded,
    )


def _listed(result: Value | list[Value]) -> list[Value]:
    return result if isinstance(result, list) else [result]


def _frozen(propagation: Propagation, resolved: Resolved) -> tuple[list[list[str]], list[tuple[str, str, str]]]:
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


def _users(users: list[tuple[str, Labels]], resolved: Resolved, index: int) -> tuple[str, ...]:
    """Modules whose atoms belong to a set, in network order."""
    found: dict[str, None] = {}
    for module, atoms in users:
        atoms = atoms[atoms >= 0]
        if (resolved.set_of[atoms] == index).any():
            found[module or "forward"] = None
    return tuple(found)


def _positions(traced: TracedGraph, computed: Mapping[Node, ComputedWeight]) -> dict[str, int]:
    """How many positions of one image each element of a layer's weight multiplies, by name of the weight."""
    found: dict[str, int] = {}
    for node in traced.nodes:
        entry = OPERATORS.get(operator_of(node)) if node.op == "call_function" else None
        if entry is None or entry.positions is None:
            continue
        weight = arguments_of(node)["weight"]
        if not isinstance(weight, Node):
            continue
        source = computed[weight].parameter if weight in computed else traced.sources.get(weight.name)
        if source is not None:
            found[source.name] = found.get(source.name, 0) + entry.positions(node) // BATCH
    return found

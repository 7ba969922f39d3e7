"""`cfp inspect MODEL`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cfp_cli.commands.console import Console
from cfp_cli.commands.options import examples, model_source, pass_console, talk

if TYPE_CHECKING:
    from rich.table import Table
    from rich.tree import Tree
    from torch import nn

    from cfp_cli.graph import ChannelGraph


@click.command(
    short_help="Show what can be pruned, what is frozen and why.",
    epilog=examples("cfp inspect model.pt", "cfp inspect weights.pth --arch torchvision:resnet50 --json"),
)
@click.argument("model", type=click.Path(path_type=Path))
@model_source
@talk
@pass_console
def inspect(console: Console, model: Path, arch: str | None, input_size: int | None, unsafe_pickle: bool) -> None:
    """Show the channel sets of MODEL: what couples them, what is frozen and why."""
    import torch

    from cfp_cli.checkpoints.checkpoint import spec_of
    from cfp_cli.graph import channel_sets
    from cfp_cli.runs.inputs import ModelInput

    network = ModelInput(model, arch, input_size, unsafe_pickle).load(console)
    spec = spec_of(network)
    graph = channel_sets(network, torch.zeros(1, 3, *spec.input_size))
    everything = sum(parameter.numel() for parameter in network.parameters())
    data = {
        "arch": spec.arch,
        "classes": list(spec.classes),
        "input_size": list(spec.input_size),
        "params": everything,
        "sets": [
            {
                "name": group.name,
                "channels": group.size,
                "producers": list(group.producers),
                "consumers": list(group.consumers),
                "taps": [graph.taps[index].name for index in group.taps],
                "frozen": list(group.frozen),
            }
            for group in graph.sets
        ],
        "frozen": [
            {"module": module, "operator": operator, "reason": reason} for module, operator, reason in graph.frozen
        ],
    }
    height, width = spec.input_size
    title = f"{spec.arch}: {everything:,} parameters, {len(spec.classes)} classes, input {height}x{width}"
    console.result(data, _tree(network, graph, title), _sets_table(graph), *graph.left_alone)


def _tree(network: nn.Module, graph: ChannelGraph, title: str) -> Tree:
    """The modules that hold parameters, by their names; each with the channel sets that it makes and reads."""
    from rich.markup import escape
    from rich.tree import Tree

    made = {module: group for group in graph.sets for module in group.producers}
    read: dict[str, list[str]] = {}
    for group in graph.sets:
        for module in group.consumers:
            read.setdefault(module, []).append(group.name)
    tree = Tree(escape(title))
    branches = {"": tree}
    for name, module in network.named_modules():
        if not name or not any(True for _ in module.parameters()):
            continue
        parent, _, own = name.rpartition(".")
        words = [f"[bold]{escape(own)}[/] {type(module).__name__}"]
        if next(module.children(), None) is None:
            words.append(f"{sum(parameter.numel() for parameter in module.parameters()):,}")
        if name in made:
            state = "yellow" if made[name].frozen else "green"
            words.append(f"makes [{state}]{escape(made[name].name)}[/] ({made[name].size})")
        if name in read:
            words.append("reads " + escape(", ".join(dict.fromkeys(read[name]))))
        branches[name] = branches[parent].add("  ".join(words))
    return tree


def _sets_table(graph: ChannelGraph) -> Table:
    """Every channel set, what couples it, and whether it may be pruned."""
    from rich.table import Table

    table = Table("channel set", "channels", "made by", "read by", "", title="channel sets")
    for group in graph.sets:
        state = f"frozen: {'; '.join(group.frozen)}" if group.frozen else "prunable"
        table.add_row(group.name, str(group.size), ", ".join(group.producers), ", ".join(group.consumers), state)
    return table

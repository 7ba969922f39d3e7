"""`cfp inspect MODEL`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cfp_cli.commands.options import examples, model_source, pass_console, talk
from cfp_cli.console import Console

if TYPE_CHECKING:
    from rich.tree import Tree

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

    from cfp_cli.checkpoint import spec_of
    from cfp_cli.graph import channel_sets
    from cfp_cli.steps.inputs import ModelInput

    network = ModelInput(model, arch, input_size, unsafe_pickle).load()
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
    console.result(data, _tree(graph, f"{spec.arch}: {everything:,} parameters, {len(spec.classes)} classes"))


def _tree(graph: ChannelGraph, title: str) -> Tree:
    from rich.tree import Tree

    tree = Tree(title)
    for group in graph.sets:
        state = f"[yellow]frozen: {'; '.join(group.frozen)}[/]" if group.frozen else "[green]prunable[/]"
        branch = tree.add(f"[bold]{group.name}[/]  {group.size} channels  {state}")
        branch.add("made by " + ", ".join(group.producers))
        if group.consumers:
            branch.add("read by " + ", ".join(group.consumers))
    for module, operator, reason in graph.frozen:
        tree.add(f"[yellow]left alone[/]: {module or 'forward'}: {operator}: {reason}")
    return tree

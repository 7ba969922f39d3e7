"""`cfp inspect MODEL`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cfp_cli.commands.console import Console
from cfp_cli.commands.model_options import ModelOptions, model_options
from cfp_cli.commands.next_command import next_for_model
from cfp_cli.commands.options import examples, output_options, pass_console
from cfp_cli.commands.tables import listed, sentence

if TYPE_CHECKING:
    from rich.table import Table
    from rich.tree import Tree
    from torch import nn

    from cfp_cli.graph import ChannelGraph


# What the words of the tree mean.
LEGEND = "makes: outputs the channels of this set (their number); reads: takes the channels of these sets as input"
UNITS = (
    "unit: channels of a set that are kept or dropped together, such as the query, key and value of an attention head; "
    "the tables of cfp count units"
)


@click.command(
    short_help="Show which channels can be pruned, and why the others cannot.",
    epilog=examples("cfp inspect model.pt", "cfp inspect weights.pth --arch torchvision:resnet50 --json"),
)
@click.argument("model", type=click.Path(path_type=Path))
@model_options
@output_options
@pass_console
def inspect(console: Console, model: Path, how: ModelOptions) -> None:
    """Show the channel sets of MODEL: which layers they couple, which are frozen, and why."""
    import torch

    from cfp_cli.checkpoints.spec import spec_of
    from cfp_cli.foundation.progress import working
    from cfp_cli.graph import channel_sets
    from cfp_cli.runs.network_check import warn_of_batch_norms, warn_of_problems

    network = how.file(model).load(console)
    spec = spec_of(network)
    with working(console, "tracing the network"):
        graph = channel_sets(network, torch.zeros(1, *spec.input_shape))
    if graph.traced.logits_shape is not None:
        warn_of_problems(network, torch.zeros(1, *spec.input_shape), console)
    else:
        warn_of_batch_norms(network, console)
    parameters = sum(each.numel() for each in network.parameters())
    data = {
        "arch": spec.arch,
        "classes": list(spec.classes),
        "input_size": list(spec.input_size),
        "channels": spec.channels,
        "params": parameters,
        "sets": [
            {
                "name": each.name,
                "channels": each.size,
                "producers": list(each.producers),
                "consumers": list(each.consumers),
                "taps": [graph.taps[index].name for index in each.taps],
                "frozen": list(each.frozen),
            }
            for each in graph.sets
        ],
        "frozen": [
            {"module": module, "operator": operator, "reason": reason} for module, operator, reason in graph.frozen
        ],
    }
    height, width = spec.input_size
    classes = f"{len(spec.classes)} classes, " if spec.classes else ""
    title = f"{spec.arch}: {parameters:,} parameters, {classes}input {height}x{width}"
    console.result(
        data,
        _tree(network, graph, title),
        LEGEND,
        *((UNITS,) if _unit_sizes(network, graph) else ()),
        _sets_table(graph),
        *graph.left_alone,
        next_for_model(model, how, None, spec.plan is not None),
    )


def _tree(network: nn.Module, graph: ChannelGraph, title: str) -> Tree:
    """The modules that contain parameters. Each names the channel sets that it makes and reads."""
    from rich.text import Text
    from rich.tree import Tree

    made = {module: channel_set for channel_set in graph.sets for module in channel_set.producers}
    read: dict[str, list[str]] = {}
    for channel_set in graph.sets:
        for module in channel_set.consumers:
            read.setdefault(module, []).append(channel_set.name)
    wide = _unit_sizes(network, graph)
    tree = Tree(title)
    branches = {"": tree}
    for name, module in network.named_modules():
        if not name or not any(True for _ in module.parameters()):
            continue
        parent, _, own_name = name.rpartition(".")
        label = Text.assemble((own_name, "bold"), f" {type(module).__name__}")
        if next(module.children(), None) is None:
            label.append(f"  {sum(parameter.numel() for parameter in module.parameters()):,}")
        if name in made:
            label.append("  makes ").append(made[name].name, "yellow" if made[name].frozen else "green")
            label.append(f" ({made[name].size} units of {wide[name]})" if name in wide else f" ({made[name].size})")
        if name in read:
            label.append("  reads " + ", ".join(dict.fromkeys(read[name])))
        branches[name] = branches[parent].add(label)
    return tree


def _unit_sizes(network: nn.Module, graph: ChannelGraph) -> dict[str, int]:
    """Return the outputs in each unit, by layer, for the layers that have several in each."""
    from torch import nn

    outputs = {
        name: module.out_features if isinstance(module, nn.Linear) else module.out_channels
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    }
    makers = Counter(name for channel_set in graph.sets for name in channel_set.producers)
    return {
        name: outputs[name] // channel_set.size
        for channel_set in graph.sets
        for name in channel_set.producers
        # A layer whose outputs are split makes several sets.
        if makers[name] == 1 and outputs.get(name, 0) > channel_set.size and outputs[name] % channel_set.size == 0
    }


def _sets_table(graph: ChannelGraph) -> Table:
    """Every channel set, the modules that make and read it, and whether it can be pruned."""
    from rich.table import Table

    table = Table("channel set", "channels", "made by", "read by", "can be pruned", title="channel sets")
    for each in graph.sets:
        state = sentence(f"no: {'; '.join(each.frozen)}") if each.frozen else "yes"
        table.add_row(each.name, str(each.size), listed(each.producers), listed(each.consumers), state)
    return table

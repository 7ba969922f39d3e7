"""Find the layers that the refit fits, and what reads the outputs of each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn.modules.batchnorm import _BatchNorm

from cfp_cli.graph import Selection
from cfp_cli.graph.trace import TracedGraph, arguments_of, operator_of, shape_of
from cfp_cli.pruning.layer_fit import Activation


@dataclass(frozen=True)
class FittedLayer:
    """A convolution or linear layer that is fitted.

    A layer is an operator call, not a module: a subclass of `nn.Conv2d` that pads its input, or a module whose weight
    other code reads, runs the same operators.

    Attributes:
        weight: full name of its weight.
        node: its operator call in the original.
        outputs: indices of its remaining outputs in the original, int64.
        inputs: inputs of one group in the original: of one of its outputs, the number of weights.
        positions: number of output positions of one image.
        norm: the only reader of its outputs, if that is a batch norm, whose mean can absorb an offset; else None.
        activation: the only reader of its outputs, behind the norm if there is one, if it is a known activation.
    """

    weight: str
    node: Node
    outputs: Tensor
    inputs: int
    positions: int
    norm: str | None
    activation: Activation | None


def fitted_layers(selection: Selection, device: torch.device) -> tuple[list[FittedLayer], list[str]]:
    """Layers that can be fitted, in the order in which they run, and the weights of the others.

    A layer cannot be fitted if its weight or bias is computed from a parameter or used more than once.

    Args:
        selection: the kept units.
        device: device of the indices.
    """
    traced = selection.graph.traced
    modules = dict(traced.model.named_modules(remove_duplicate=False))
    tensors = Counter(id(_tensor(traced, node)) for node in traced.nodes if _is_parameter(traced, node))
    found, left = [], []
    for node in traced.nodes:
        if operator_of(node) not in ("conv2d", "linear"):
            continue
        given = arguments_of(node)
        own = [given["weight"]] + ([given["bias"]] if given["bias"] is not None else [])
        weight = parameter(traced, node, "weight")
        if weight is None or any(
            not _is_parameter(traced, each) or len(each.users) > 1 or tensors[id(_tensor(traced, each))] > 1
            for each in own
        ):
            left.append(weight or node.name)
            continue
        _, *shape = shape_of(node)
        width = shape.pop(0 if operator_of(node) == "conv2d" else -1)
        outputs = selection.slices.get((weight, 0), [np.arange(width)])[0]
        norm = _norm(traced, node, modules)
        last = node if norm is None else next(iter(node.users))
        indices = torch.from_numpy(outputs).to(device)
        inputs = math.prod(shape_of(given["weight"])[1:])
        found.append(FittedLayer(weight, node, indices, inputs, math.prod(shape), norm, _activation(last)))
    return found, left


def _is_parameter(traced: TracedGraph, node: Node) -> bool:
    return node.op == "placeholder" and traced.sources[node.name].kind == "parameter"


def _tensor(traced: TracedGraph, node: Node) -> Tensor:
    return traced.model.get_parameter(traced.sources[node.name].name)


def parameter(traced: TracedGraph, node: Node, name: str) -> str | None:
    """Full name of the tensor that an operator takes as `name`."""
    if node.op != "call_function" or not hasattr(node.target, "_schema"):
        return None
    given = arguments_of(node).get(name)
    source = traced.sources.get(given.name) if isinstance(given, Node) else None
    return source.name if source is not None else None


def _norm(traced: TracedGraph, node: Node, modules: Mapping[str, nn.Module]) -> str | None:
    """The batch norm of a layer's outputs alone, channel by channel; None if there is none."""
    users = list(node.users)
    mean = parameter(traced, users[0], "running_mean") if len(users) == 1 else None
    if mean is None or arguments_of(users[0])["input"] is not node:
        return None
    # After a linear layer of several positions, channels are the last dimension and batch norm takes the second.
    if operator_of(node) == "linear" and len(shape_of(node)) != 2:
        return None
    if sum(parameter(traced, each, "running_mean") == mean for each in traced.nodes) > 1:
        return None
    name = mean.removesuffix(".running_mean")
    return name if isinstance(modules.get(name), _BatchNorm) else None


def _activation(node: Node) -> Activation | None:
    """The activation that alone reads a value; None if there is none."""
    readers = list(node.users)
    if len(readers) != 1 or readers[0].op != "call_function":
        return None
    given, name = arguments_of(readers[0]), operator_of(readers[0])
    if name == "relu":
        return Activation(0.0, math.inf)
    if name == "hardtanh":
        return Activation(float(given["min_val"]), float(given["max_val"]))
    return None

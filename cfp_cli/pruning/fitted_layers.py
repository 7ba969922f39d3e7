"""Find the layers that the refit fits, and what reads the outputs of each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from cfp_cli.graph import Selection
from cfp_cli.graph.trace import TracedGraph, arguments_of, operator_of, shape_of
from cfp_cli.pruning.layer_fit import Activation
from cfp_cli.pruning.norm_calls import Readers, changeable_norms

# Layers that keep their sliced weights whatever their weights are.
_OTHER_LAYERS = ("conv1d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")


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
        norm: the only reader of its outputs, if that is a batch norm that may be changed; else None.
            Its mean can absorb an offset.
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

    A layer cannot be fitted if its weight or bias is computed from a parameter or used more than once, or if it is
    another convolution than a 2-d one. A computed weight has the name of the parameter that it is computed from.

    Args:
        selection: the kept units.
        device: device of the indices.
    """
    traced = selection.graph.traced
    norms, readers = changeable_norms(traced), Readers(traced)
    found, left = [], []
    for node in traced.nodes:
        operator = operator_of(node)
        if operator in _OTHER_LAYERS:
            left.append(_read_parameter(traced, node))
        if operator not in ("conv2d", "linear"):
            continue
        given = arguments_of(node)
        weight = parameter(traced, node, "weight")
        own = [given["weight"]] + ([given["bias"]] if given["bias"] is not None else [])
        if weight is None or any(not _is_parameter(traced, each) or readers.own(each) is None for each in own):
            left.append(_read_parameter(traced, node))
            continue
        shape = list(shape_of(node))
        width = shape.pop(-3 if operator == "conv2d" else -1)
        # A layer that reads a parameter and not the images may have no dimension of images.
        shape = shape[1:] if operator == "linear" or len(shape) == 3 else shape
        outputs = selection.slices.get((weight, 0), [np.arange(width)])[0]
        norm = _norm(norms, node)
        last = node if norm is None else next(iter(node.users))
        indices = torch.from_numpy(outputs).to(device)
        inputs = math.prod(shape_of(given["weight"])[1:])
        found.append(FittedLayer(weight, node, indices, inputs, math.prod(shape), norm, _activation(last)))
    return found, left


def _is_parameter(traced: TracedGraph, node: Node) -> bool:
    return node.op == "placeholder" and traced.sources[node.name].kind == "parameter"


def _read_parameter(traced: TracedGraph, node: Node) -> str:
    """Full name of the weight of a layer, or of the first parameter that it is computed from; else of its node."""
    pending = [arguments_of(node)["weight"]]
    for each in pending:
        if _is_parameter(traced, each):
            return traced.sources[each.name].name
        pending.extend(read for read in each.all_input_nodes if read not in pending)
    return node.name


def parameter(traced: TracedGraph, node: Node, name: str) -> str | None:
    """Full name of the tensor that an operator takes as `name`."""
    if node.op != "call_function" or not hasattr(node.target, "_schema"):
        return None
    given = arguments_of(node).get(name)
    source = traced.sources.get(given.name) if isinstance(given, Node) else None
    return source.name if source is not None else None


def _norm(norms: Mapping[Node, str], node: Node) -> str | None:
    """The batch norm of a layer's outputs alone, channel by channel; None if there is none that may be changed."""
    users = list(node.users)
    name = norms.get(users[0]) if len(users) == 1 else None
    if name is None or arguments_of(users[0])["input"] is not node:
        return None
    # After a linear layer of several positions, channels are the last dimension and batch norm takes the second.
    return None if operator_of(node) == "linear" and len(shape_of(node)) != 2 else name


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

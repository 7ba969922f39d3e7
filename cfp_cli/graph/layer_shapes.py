"""The shapes of the convolutions and linear layers of a pruned network, without building it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch.fx import Node

from cfp_cli.graph.selection import Selection
from cfp_cli.graph.trace import arguments_of, operator_of, shape_of


@dataclass(frozen=True)
class LayerShape:
    """A convolution or linear layer.

    Attributes:
        operator: `conv2d` or `linear`.
        inputs, outputs: number of input and output channels.
        groups: groups of a convolution; 1 for a linear layer.
        size: height and width of the input; for a linear layer the number of positions of an image, and 1.
        kernel, stride, padding, dilation: of the convolution, height first; for a linear layer 1, 1, 0 and 1.
    """

    operator: Literal["conv2d", "linear"]
    inputs: int
    outputs: int
    groups: int
    size: tuple[int, int]
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)


def layer_shapes(selection: Selection) -> list[LayerShape]:
    """Return the layers of the network that `rebuild` makes of a selection, in the order in which they run.

    Convolutions of other dimensions, transposed ones, and layers without a weight of their own are left out.
    """
    found = []
    for node in selection.graph.traced.nodes:
        shape = _layer_shape(node, selection)
        if shape is not None:
            found.append(shape)
    return found


def _layer_shape(node: Node, selection: Selection) -> LayerShape | None:
    operator = operator_of(node) if node.op == "call_function" else ""
    if operator not in ("conv2d", "linear"):
        return None
    given = arguments_of(node)
    weight = given["weight"]
    source = selection.graph.traced.sources.get(weight.name) if isinstance(weight, Node) else None
    if source is None:
        return None
    full = shape_of(weight)
    outputs, inputs = (selection.width(source.name, dim, full[dim]) for dim in (0, 1))
    read = shape_of(given["input"])
    if operator == "linear":
        positions = 1
        for each in read[1:-1]:
            positions *= each
        return LayerShape("linear", inputs, outputs, 1, (positions, 1))
    padding = given["padding"]
    if isinstance(padding, str) or len(read) != 4:
        return None
    # A depthwise convolution has as many groups as channels remain; others keep their groups.
    groups = int(given["groups"])
    if full[1] == 1 and groups > 1:
        groups = outputs * groups // full[0]
    return LayerShape(
        "conv2d",
        inputs * groups,
        outputs,
        groups,
        (read[2], read[3]),
        (full[2], full[3]),
        _pair(given["stride"]),
        _pair(padding),
        _pair(given["dilation"]),
    )


def _pair(values: Sequence[int]) -> tuple[int, int]:
    """Two values of an operator's argument, which may hold one for both."""
    return (int(values[0]), int(values[-1]))

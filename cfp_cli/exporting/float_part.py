"""The beginning of a network that stays in float32 in an int8 file.

The first layers have few weights and, behind few channels, few multiply-adds, and their errors reach all other layers.
Quantisers replace a value by its quantised form for all nodes that read it. So the network is cut where no value and no
weight is read on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from cfp_cli.foundation.scratch import scratch_folder

# Largest part of the multiply-adds in the layers that stay in float32: if it is one layer, and if they are several.
FIRST_SHARE, FLOAT_SHARE = 1 / 2, 1 / 8
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Prepared:
    """An ONNX file that is prepared for quantisation.

    Attributes:
        content: the file.
        nodes: names of the nodes that stay in float32.
        float32_layers: number of layers among these nodes.
        layers: number of convolutions, linear layers and matrix products of the network.
    """

    content: bytes
    nodes: Sequence[str]
    float32_layers: int
    layers: int


def prepare(content: bytes) -> Prepared:
    """Prepare an ONNX file for quantisation, and choose the nodes that stay in float32.

    Args:
        content: the float32 file; its first input has the batch as first dimension.
    """
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with scratch_folder() as folder:
        source, prepared = folder / "float.onnx", folder / "prepared.onnx"
        source.write_bytes(content)
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        model = onnx.load(prepared)
    # Nodes are excluded by name, and onnxruntime leaves some without.
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"unnamed_{index}"
    count = _float_nodes(model)
    nodes = model.graph.node
    float32_layers, layers = (sum(node.op_type in _LAYERS for node in part) for part in (nodes[:count], nodes))
    return Prepared(model.SerializeToString(), [node.name for node in nodes[:count]], float32_layers, layers)


def _float_nodes(model: Any) -> int:
    """Number of the first nodes that stay in float32; 0 if there is no layer among them."""
    nodes = model.graph.node
    shared = [False] * (len(nodes) + 1)
    for first, last in _readers(model).values():
        shared[first + 1 : last + 1] = [True] * (last - first)
    shapes = _shapes(model)
    costs = list(accumulate(_multiply_adds(node, shapes) for node in nodes))
    layers = list(accumulate(node.op_type in _LAYERS for node in nodes))
    possible = (
        count
        for count, (cost, number) in enumerate(zip(costs, layers, strict=True), 1)
        if not shared[count] and number and cost <= costs[-1] * (FIRST_SHARE if number == 1 else FLOAT_SHARE)
    )
    return max(possible, default=0)


def _readers(model: Any) -> dict[str, tuple[int, int]]:
    """The first and the last node that read each value or weight. Numbers, shapes and indices are never quantised."""
    from onnx import TensorProto

    kept = {each.name for each in model.graph.initializer if not each.dims or each.data_type != TensorProto.FLOAT}
    readers: dict[str, tuple[int, int]] = {}
    for index, node in enumerate(model.graph.node):
        for name in node.input if node.op_type != "Shape" else ():
            if name and name not in kept:
                readers[name] = (readers.get(name, (index,))[0], index)
    return readers


def _shapes(model: Any) -> dict[str, list[int]]:
    """Shapes of all values and weights for one image; a size that is not known is 1."""
    import onnx

    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    graph = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    values = {
        each.name: [dim.dim_value or 1 for dim in each.type.tensor_type.shape.dim]
        for each in (*graph.input, *graph.value_info, *graph.output)
    }
    return values | {each.name: list(each.dims) for each in graph.initializer}


def _multiply_adds(node: Any, shapes: Mapping[str, Sequence[int]]) -> int:
    """Multiply-adds of a node for one image; 0 if it is no layer."""
    if node.op_type not in _LAYERS:
        return 0
    given, weight, output = (shapes.get(name, []) for name in (*node.input[:2], node.output[0]))
    if node.op_type == "Conv":
        return math.prod(output) * math.prod(weight[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(given) * math.prod(weight[1:])
    return math.prod(output) * (given[-1] if given else 1)

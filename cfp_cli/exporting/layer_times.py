"""The time of a single convolution or linear layer in a runtime, without a network around it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from cfp_cli.exporting.metadata import INPUT
from cfp_cli.exporting.runtimes import opener
from cfp_cli.graph.layer_shapes import LayerShape
from cfp_cli.measuring.runtimes import Runtime

_WARM_UP = 2
_LEAST_PASSES = 5
_MOST_PASSES = 200
_SECONDS = 0.015


@dataclass(frozen=True)
class Setting:
    """How latency is measured, on the CPU.

    Attributes:
        runtime: the software that runs the network.
        threads: CPU threads.
        batch: number of images in a batch.
    """

    runtime: Runtime
    threads: int
    batch: int

    def __str__(self) -> str:
        """Return the setting as text, such as `onnxruntime, 2 threads, batch 1`."""
        return f"{self.runtime}, {self.threads} thread{'s' if self.threads != 1 else ''}, batch {self.batch}"


def time_layer(shape: LayerShape, setting: Setting) -> float:
    """Return the time of one forward pass of a layer with random weights, in milliseconds.

    It is the lower quartile of some passes, because other programs of the machine only make a pass slower.
    """
    size = (
        (setting.batch, shape.inputs, *shape.size)
        if shape.operator == "conv2d"
        else (setting.batch * shape.size[0], shape.inputs)
    )
    values = np.random.default_rng(0).random(size, np.float32)
    return _quartile(_torch_pass(shape, values) if setting.runtime == "torch" else _file_pass(shape, setting, values))


def _quartile(call: Callable[[], Any]) -> float:
    for _ in range(_WARM_UP):
        call()
    times: list[float] = []
    while len(times) < _LEAST_PASSES or (sum(times) < _SECONDS and len(times) < _MOST_PASSES):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return float(np.percentile(times, 25)) * 1000


def _torch_pass(shape: LayerShape, values: np.ndarray[Any, Any]) -> Callable[[], Any]:
    if shape.operator == "linear":
        layer: nn.Module = nn.Linear(shape.inputs, shape.outputs)
    else:
        layer = nn.Conv2d(
            shape.inputs,
            shape.outputs,
            shape.kernel,
            shape.stride,
            shape.padding,
            shape.dilation,
            shape.groups,
        )
    images = torch.from_numpy(values)

    def call() -> None:
        with torch.inference_mode():
            layer(images)

    return call


def _file_pass(shape: LayerShape, setting: Setting, values: np.ndarray[Any, Any]) -> Callable[[], Any]:
    run = opener(setting.runtime, setting.threads)(onnx_layer(shape, setting.batch))
    return lambda: run(values)


def onnx_layer(shape: LayerShape, batch: int) -> bytes:
    """Return the content of an ONNX file with one layer, from `images` to `output`."""
    from onnx import TensorProto, helper, numpy_helper

    generator = np.random.default_rng(1)

    def values(name: str, *size: int) -> Any:
        return numpy_helper.from_array(generator.standard_normal(size, np.float32), name)

    bias = values("bias", shape.outputs)
    if shape.operator == "linear":
        weight = values("weight", shape.outputs, shape.inputs)
        node = helper.make_node("Gemm", [INPUT, "weight", "bias"], ["output"], transB=1)
        given, made = [batch * shape.size[0], shape.inputs], [batch * shape.size[0], shape.outputs]
    else:
        weight = values("weight", shape.outputs, shape.inputs // shape.groups, *shape.kernel)
        node = helper.make_node(
            "Conv",
            [INPUT, "weight", "bias"],
            ["output"],
            kernel_shape=shape.kernel,
            strides=shape.stride,
            pads=[*shape.padding, *shape.padding],
            dilations=shape.dilation,
            group=shape.groups,
        )
        height, width = (
            (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
            for size, pad, dilation, kernel, stride in zip(
                shape.size, shape.padding, shape.dilation, shape.kernel, shape.stride, strict=True
            )
        )
        given, made = [batch, shape.inputs, *shape.size], [batch, shape.outputs, height, width]
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, given)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, made)],
        [weight, bias],
    )
    # The versions that the exporter of torch writes, which older runtimes read too.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content

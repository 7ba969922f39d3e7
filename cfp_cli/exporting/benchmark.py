"""`cfp bench`: parameters, multiply-adds, bytes and measured latency of several networks, side by side."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cfp_cli.checkpoints.spec import spec_of
from cfp_cli.exporting.runtimes import Opener, Pass, is_available, opener
from cfp_cli.foundation.errors import CfpError
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.measuring.latency import Latency, Memory, Shape, measure_latency, summarise, time_in_turns
from cfp_cli.measuring.runtimes import Runtime
from cfp_cli.models.forward_pass import run_network


@dataclass(frozen=True)
class Benchmark:
    """Size and speed of a network.

    Attributes:
        model: name of the network.
        params: number of parameters.
        macs: multiply-adds of convolutions and linear layers for one image.
        bytes: size of its file; without a file, of its parameters and buffers.
        input_size: height and width in pixels of the timed images.
        latency_ms: latency in milliseconds, by runtime and batch size.
        stored: type of the numbers in its file, such as `float32`; empty if it was not looked up.
    """

    model: str
    params: int
    macs: int
    bytes: int
    input_size: tuple[int, int]
    latency_ms: tuple[Latency, ...]
    stored: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain data."""
        return {
            "model": self.model,
            "params": self.params,
            "macs": self.macs,
            "bytes": self.bytes,
            "input_size": list(self.input_size),
            "latency_ms": [each.to_json() for each in self.latency_ms],
            "stored": self.stored,
        }


def benchmark(
    models: Mapping[str, nn.Module],
    files: Mapping[str, Path] | None = None,
    batches: Sequence[int] = (1, 64),
    threads: int | None = None,
    seconds: float = 1.0,
    memory: Memory = "contiguous",
    onnx: bool = True,
    openvino: bool = True,
    progress: Progress = SILENT,
) -> list[Benchmark]:
    """Count and time networks in turns, in eager torch and, if they are installed, in onnxruntime and OpenVINO.

    Args:
        models: networks by name, with their specs attached; they are not changed.
        files: their checkpoints by name.
        batches: batch sizes.
        threads: CPU threads; None takes the number that torch uses.
        seconds: time to spend on each network, batch size and runtime.
        memory: memory layout of images and weights for torch; the other runtimes read contiguous images.
        onnx: also time onnxruntime on the CPU. A network without an ONNX form is reported and not timed.
        openvino: also time OpenVINO on the CPU, in float32; likewise.
        progress: reports progress.

    Raises:
        CheckpointError: a network has no spec.
    """
    shapes = {name: spec_of(model).input_shape for name, model in models.items()}
    threads = threads or torch.get_num_threads()
    times = measure_latency(models, shapes, batches, threads, seconds, memory, progress)
    timed: dict[Runtime, bool] = {"onnxruntime": onnx, "openvino": openvino}
    openers = {name: opener(name, threads) for name, wanted in timed.items() if wanted and is_available(name)}
    contents = _onnx_contents(models, shapes, progress) if openers else {}
    for runtime, open_file in openers.items():
        passes = _open(runtime, open_file, contents, progress)
        for name, latencies in _times(runtime, passes, shapes, batches, threads, seconds, progress).items():
            times[name] += latencies
    return [
        Benchmark(
            model=name,
            params=sum(parameter.numel() for parameter in model.parameters()),
            macs=count_macs(model, shapes[name]),
            bytes=files[name].stat().st_size if files and name in files else _state_bytes(model),
            input_size=shapes[name][1:],
            latency_ms=tuple(times[name]),
        )
        for name, model in models.items()
    ]


def count_macs(model: nn.Module, input_shape: Shape) -> int:
    """Count multiply-adds of all convolutions and matrix products with weights, for one image in eval mode.

    Additions of biases, norms, activations and pools are not counted.
    """
    network = copy.deepcopy(model).cpu().eval()
    aten = torch.ops.aten
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run_network(network, torch.zeros(1, *input_shape))
    counts = counter.get_flop_counts()["Global"]
    # The counter counts a multiply-add as two operations.
    return sum(int(count) for target, count in counts.items() if target in (aten.convolution, aten.mm, aten.addmm)) // 2


def _state_bytes(model: nn.Module) -> int:
    return sum(value.numel() * value.element_size() for value in model.state_dict().values())


def _onnx_contents(
    models: Mapping[str, nn.Module], shapes: Mapping[str, Shape], progress: Progress
) -> dict[str, bytes]:
    from cfp_cli.exporting import onnx_file

    contents = {}
    exporting = "exporting the networks to time them in other runtimes"
    for name, model in progress.track(models.items(), exporting, total=len(models), unit="network"):
        network = copy.deepcopy(model).cpu().eval().to(memory_format=torch.contiguous_format)
        try:
            contents[name] = onnx_file.to_bytes(network, torch.rand(2, *shapes[name]), {})
        except CfpError as error:
            progress.say(f"{name} is timed in torch only: {error}")
    return contents


def _open(runtime: str, open_file: Opener, contents: Mapping[str, bytes], progress: Progress) -> dict[str, Pass]:
    passes = {}
    for name, content in contents.items():
        try:
            passes[name] = open_file(content)
        except CfpError as error:
            progress.say(f"{name} is not timed in {runtime}: {error}")
    return passes


def _times(
    runtime: str,
    passes: Mapping[str, Pass],
    shapes: Mapping[str, Shape],
    batches: Sequence[int],
    threads: int,
    seconds: float,
    progress: Progress,
) -> dict[str, list[Latency]]:
    latencies: dict[str, list[Latency]] = {name: [] for name in passes}
    for batch in progress.track(batches, f"timing {runtime}", total=len(batches), unit="batch size"):
        generator = np.random.default_rng(0)
        calls = {
            name: partial(each, generator.random((batch, *shapes[name]), np.float32)) for name, each in passes.items()
        }
        for name, each in time_in_turns(calls, seconds).items():
            latencies[name].append(summarise(each, batch, threads, runtime))
    return latencies

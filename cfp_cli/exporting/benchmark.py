"""`cfp bench`: parameters, multiply-adds, bytes and measured time of several networks, side by side."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cfp_cli.checkpoints.spec import spec_of
from cfp_cli.foundation.errors import CfpError
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.measuring.latency import Latency, Memory, measure_latency, summarise, time_in_turns


@dataclass(frozen=True)
class Benchmark:
    """What a network costs.

    Attributes:
        model: its name.
        params: parameters.
        macs: multiply-adds of convolutions and linear layers for one image.
        bytes: size of its file, or of its parameters and buffers where no file is known.
        input_size: height and width in pixels that it was timed at.
        latency_ms: measured times in milliseconds, by runtime and batch size.
    """

    model: str
    params: int
    macs: int
    bytes: int
    input_size: tuple[int, int]
    latency_ms: tuple[Latency, ...]

    def to_json(self) -> dict[str, Any]:
        """The figures as plain data."""
        return {
            "model": self.model,
            "params": self.params,
            "macs": self.macs,
            "bytes": self.bytes,
            "input_size": list(self.input_size),
            "latency_ms": [each.to_json() for each in self.latency_ms],
        }


def benchmark(
    models: Mapping[str, nn.Module],
    files: Mapping[str, Path] | None = None,
    batches: Sequence[int] = (1, 64),
    threads: int | None = None,
    seconds: float = 1.0,
    memory: Memory = "contiguous",
    onnx: bool = True,
    progress: Progress = SILENT,
) -> list[Benchmark]:
    """Count and time networks in turns, by eager torch and, where it is installed, by onnxruntime.

    Args:
        models: networks by name, with their specs attached; they stay as they are.
        files: where their checkpoints lie, by name.
        batches: batch sizes.
        threads: CPU threads, or as many as torch uses now.
        seconds: time to spend on each network, batch size and runtime.
        memory: order of images and weights in memory for torch; onnxruntime always reads contiguous images.
        onnx: also time onnxruntime on the CPU. A network without an ONNX form is reported and not timed.
        progress: reports progress.

    Raises:
        CheckpointError: a network has no spec.
    """
    sizes = {name: spec_of(model).input_size for name, model in models.items()}
    threads = threads or torch.get_num_threads()
    times = measure_latency(models, sizes, batches, threads, seconds, memory, progress)
    if onnx and importlib.util.find_spec("onnxruntime") is not None:
        for name, found in _onnx_times(models, sizes, batches, threads, seconds, progress).items():
            times[name] += found
    return [
        Benchmark(
            model=name,
            params=sum(parameter.numel() for parameter in model.parameters()),
            macs=count_macs(model, sizes[name]),
            bytes=files[name].stat().st_size if files and name in files else _state_bytes(model),
            input_size=sizes[name],
            latency_ms=tuple(times[name]),
        )
        for name, model in models.items()
    ]


def count_macs(model: nn.Module, input_size: tuple[int, int]) -> int:
    """Multiply-adds of all convolutions and matrix products with weights, for one image in eval mode.

    Additions of biases, norms, activations and pools are not counted.
    """
    network = copy.deepcopy(model).cpu().eval()
    aten = torch.ops.aten
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, *input_size))
    counts = counter.get_flop_counts()["Global"]
    # The counter counts a multiply-add as two operations.
    return sum(int(count) for target, count in counts.items() if target in (aten.convolution, aten.mm, aten.addmm)) // 2


def _state_bytes(model: nn.Module) -> int:
    return sum(value.numel() * value.element_size() for value in model.state_dict().values())


def _onnx_times(
    models: Mapping[str, nn.Module],
    sizes: Mapping[str, tuple[int, int]],
    batches: Sequence[int],
    threads: int,
    seconds: float,
    progress: Progress,
) -> dict[str, list[Latency]]:
    from cfp_cli.exporting import onnx_file

    sessions = {}
    for name, model in models.items():
        progress.say(f"exporting {name} for onnxruntime")
        network = copy.deepcopy(model).cpu().eval().to(memory_format=torch.contiguous_format)
        try:
            content = onnx_file.to_bytes(network, torch.rand(2, 3, *sizes[name]), {})
            sessions[name] = onnx_file.session(content, threads)
        except CfpError as error:
            progress.say(f"{name} is not timed by onnxruntime: {error}")
    found: dict[str, list[Latency]] = {name: [] for name in sessions}
    for batch in progress.track(batches, "timing onnxruntime", total=len(batches), unit="batch size"):
        generator = np.random.default_rng(0)
        passes: dict[str, Callable[[], Any]] = {}
        for name, opened in sessions.items():
            images = generator.random((batch, 3, *sizes[name]), np.float32)
            passes[name] = _run(opened, images)
        for name, each in time_in_turns(passes, seconds).items():
            found[name].append(summarise(each, batch, threads, "onnxruntime"))
    return found


def _run(opened: Any, images: np.ndarray[Any, Any]) -> Callable[[], Any]:
    from cfp_cli.exporting.metadata import INPUT, OUTPUT

    return lambda: opened.run([OUTPUT], {INPUT: images})

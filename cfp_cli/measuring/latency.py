"""Measure the time of a forward pass on this machine.

Several networks are timed in turns, some passes of each, so that changes in the speed of the machine affect all of them
equally.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from cfp_cli.execution.forward import forward_errors
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.models.forward_pass import run_network

Memory = Literal["contiguous", "channels-last"]

# The first passes are slower: they allocate memory, load code and fill caches.
_WARM_UP_PASSES = 3
_WARM_UP_SECONDS = 0.2
_MIN_PASSES = 10
_MAX_PASSES = 400
_TURNS = 5


@dataclass(frozen=True)
class Latency:
    """The time of one forward pass of a batch.

    Attributes:
        batch: number of images.
        threads: CPU threads.
        median: median time in milliseconds.
        p25: lower quartile in milliseconds.
        p75: upper quartile in milliseconds.
        passes: number of timed passes.
        runtime: the software that ran the network, `torch` (eager) or `onnxruntime`.
        memory: memory format of the input: `contiguous` (NCHW) or `channels-last` (NHWC).
        device: the device of the network.
    """

    batch: int
    threads: int
    median: float
    p25: float
    p75: float
    passes: int
    runtime: str
    memory: Memory
    device: str

    def to_json(self) -> dict[str, Any]:
        """Return the latency as plain data."""
        return asdict(self)


Shape = tuple[int, int, int]


def measure_latency(
    models: Mapping[str, nn.Module],
    input_shape: Shape | Mapping[str, Shape],
    batches: Sequence[int] = (1, 64),
    threads: int | None = None,
    seconds: float = 1.0,
    memory: Memory = "contiguous",
    progress: Progress = SILENT,
) -> dict[str, list[Latency]]:
    """Time eager forward passes of networks on their devices, in eval and inference mode.

    Args:
        models: networks by name; they are copied and not changed.
        input_shape: channels, height and width of the images, of all networks or by name.
        batches: batch sizes; each is timed separately.
        threads: CPU threads, or None for the number that torch uses now, which is restored afterwards.
        seconds: time for each network and batch size. At least ten passes are timed, even if they take longer.
        memory: memory format of images and weights.
        progress: reports progress.

    Returns:
        The latencies of each network, in the order of `batches`.
    """
    before = torch.get_num_threads()
    shapes = dict.fromkeys(models, input_shape) if isinstance(input_shape, tuple) else input_shape
    order = torch.channels_last if memory == "channels-last" else torch.contiguous_format
    latencies: dict[str, list[Latency]] = {name: [] for name in models}
    try:
        torch.set_num_threads(threads or before)
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            # Copy the networks, so that mode and memory format of the originals do not change.
            copies = {name: copy.deepcopy(model).eval().to(memory_format=order) for name, model in models.items()}
            devices = {name: _device(model) for name, model in copies.items()}
            for name, model in copies.items():
                # The first pass of a network shows whether it runs.
                with forward_errors((1, *shapes[name])):
                    model(_images(1, shapes[name], devices[name], order))
            for batch in progress.track(batches, "timing", total=len(batches), unit="batch size"):
                passes = {
                    name: _eager(model, _images(batch, shapes[name], devices[name], order), devices[name])
                    for name, model in copies.items()
                }
                for name, times in time_in_turns(passes, seconds).items():
                    summary = summarise(times, batch, torch.get_num_threads(), "torch", memory, str(devices[name]))
                    latencies[name].append(summary)
    finally:
        torch.set_num_threads(before)
    return latencies


def time_in_turns(passes: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, list[float]]:
    """Time calls in turns: some calls of each function, then some more of each, and so on.

    When another network runs, it displaces the data of the last one from the caches. In production one network runs
    alone, so each turn begins with a call that is not timed.

    Args:
        passes: functions to call, by name.
        seconds: time for each function. At least 10 calls are timed, even if they take longer, and at most 400.

    Returns:
        The seconds of each timed call.
    """
    expected = {name: _warm_up(call) for name, call in passes.items()}
    counts = {name: float(np.clip(seconds / max(expected[name], 1e-7), _MIN_PASSES, _MAX_PASSES)) for name in passes}
    times: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(_TURNS):
        for name, call in passes.items():
            call()
            times[name] += [_timed(call) for _ in range(math.ceil(counts[name] / _TURNS))]
    return times


def summarise(
    times: Sequence[float], batch: int, threads: int, runtime: str, memory: Memory = "contiguous", device: str = "cpu"
) -> Latency:
    """Compute median and quartiles of times in seconds."""
    p25, median, p75 = (float(value) * 1000 for value in np.percentile(times, (25, 50, 75)))
    return Latency(batch, threads, median, p25, p75, len(times), runtime, memory, device)


def _images(batch: int, shape: Shape, device: torch.device, order: torch.memory_format) -> Tensor:
    # Random values, because some kernels are faster on zeros.
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch, *shape, generator=generator).to(device).contiguous(memory_format=order)


def _eager(model: nn.Module, images: Tensor, device: torch.device) -> Callable[[], None]:
    def call() -> None:
        run_network(model, images)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return call


def _device(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def _timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _warm_up(call: Callable[[], Any]) -> float:
    """Call until the warm-up ends; return the seconds of the fastest call."""
    start, fastest, calls = time.perf_counter(), float("inf"), 0
    while calls < _WARM_UP_PASSES or (time.perf_counter() - start < _WARM_UP_SECONDS and calls < _MAX_PASSES):
        fastest = min(fastest, _timed(call))
        calls += 1
    return fastest

"""Measured time of a forward pass: what a network costs on this machine, not what its arithmetic says it should.

Several networks are timed in turns, some passes of each, so that a machine that slows down or speeds up does so for
all.
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

from cfp_cli.foundation.progress import SILENT, Progress

Memory = Literal["contiguous", "channels-last"]

# The first passes pay for memory, code and caches that later ones find ready.
_WARM_PASSES = 3
_WARM_SECONDS = 0.2
_FEWEST = 10
_MOST = 400
_TURNS = 5


@dataclass(frozen=True)
class Latency:
    """The time of one pass of a batch.

    Attributes:
        batch: images of a batch.
        threads: CPU threads.
        median: of the passes, in milliseconds.
        p25: lower quartile, in milliseconds.
        p75: upper quartile, in milliseconds.
        passes: how many were timed.
        runtime: what ran the network, such as `torch` (eager) or `onnxruntime`.
        memory: order of the input in memory: `contiguous` (NCHW) or `channels-last` (NHWC).
        device: where it ran.
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
        """The figures as plain data."""
        return asdict(self)


def measure(
    models: Mapping[str, nn.Module],
    input_size: tuple[int, int] | Mapping[str, tuple[int, int]],
    batches: Sequence[int] = (1, 64),
    threads: int | None = None,
    seconds: float = 1.0,
    memory: Memory = "contiguous",
    progress: Progress = SILENT,
) -> dict[str, list[Latency]]:
    """Time eager forward passes of networks on the device they are on, in eval and inference mode.

    Args:
        models: networks by name; they are copied, and so stay as they are.
        input_size: height and width in pixels, of all networks or by name.
        batches: batch sizes, each timed on its own.
        threads: CPU threads, or as many as torch uses now; what torch used before is set again afterwards.
        seconds: time to spend on each network and batch size; ten passes are made even where that takes longer.
        memory: order of images and weights in memory. It is measured as told, never the faster of the two.
        progress: told of each batch size.

    Returns:
        The times of each network, in the order of `batches`.
    """
    before = torch.get_num_threads()
    sizes = dict.fromkeys(models, input_size) if isinstance(input_size, tuple) else input_size
    order = torch.channels_last if memory == "channels-last" else torch.contiguous_format
    found: dict[str, list[Latency]] = {name: [] for name in models}
    try:
        torch.set_num_threads(threads or before)
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            # Mode and memory order of the caller's networks stay as they are.
            ready = {name: copy.deepcopy(model).eval().to(memory_format=order) for name, model in models.items()}
            devices = {name: _device(model) for name, model in ready.items()}
            for batch in progress.track(batches, "timing", total=len(batches), unit="batch size"):
                passes = {
                    name: _eager(model, _images(batch, sizes[name], devices[name], order), devices[name])
                    for name, model in ready.items()
                }
                for name, times in in_turns(passes, seconds).items():
                    summary = summarise(times, batch, torch.get_num_threads(), "torch", memory, str(devices[name]))
                    found[name].append(summary)
    finally:
        torch.set_num_threads(before)
    return found


def in_turns(passes: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, list[float]]:
    """Time calls in turns: some of each, then some more of each, and so on.

    Another network drives what the last one used out of the caches. A line runs one network only, so each turn begins
    with a call that is not timed.

    Args:
        passes: what to call, by name.
        seconds: time to spend on each; ten calls are timed even where that takes longer, 400 at most.

    Returns:
        Seconds of each call after a warm-up.
    """
    expected = {name: _warm(call) for name, call in passes.items()}
    wanted = {name: float(np.clip(seconds / max(expected[name], 1e-7), _FEWEST, _MOST)) for name in passes}
    times: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(_TURNS):
        for name, call in passes.items():
            call()
            times[name] += [_timed(call) for _ in range(math.ceil(wanted[name] / _TURNS))]
    return times


def summarise(
    times: Sequence[float], batch: int, threads: int, runtime: str, memory: Memory = "contiguous", device: str = "cpu"
) -> Latency:
    """Median and quartiles of times in seconds."""
    p25, median, p75 = (float(value) * 1000 for value in np.percentile(times, (25, 50, 75)))
    return Latency(batch, threads, median, p25, p75, len(times), runtime, memory, device)


def _images(batch: int, size: tuple[int, int], device: torch.device, order: torch.memory_format) -> Tensor:
    # The values do not matter but zeros would: some kernels are faster on them.
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch, 3, *size, generator=generator).to(device).contiguous(memory_format=order)


def _eager(model: nn.Module, images: Tensor, device: torch.device) -> Callable[[], None]:
    def call() -> None:
        model(images)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return call


def _device(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def _timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _warm(call: Callable[[], Any]) -> float:
    """Call until the first costs are paid; give the seconds of the fastest call."""
    start, fastest, done = time.perf_counter(), float("inf"), 0
    while done < _WARM_PASSES or (time.perf_counter() - start < _WARM_SECONDS and done < _MOST):
        fastest = min(fastest, _timed(call))
        done += 1
    return fastest

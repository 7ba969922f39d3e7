"""`cfp bench`: count and time several checkpoints side by side."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from cfp_cli.checkpoints.read import read_contents
from cfp_cli.checkpoints.spec import ModelSpec, spec_of
from cfp_cli.checkpoints.stored_type import stored_type
from cfp_cli.exporting.benchmark import Benchmark, benchmark
from cfp_cli.foundation.errors import UsageError
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.measuring.latency import Memory
from cfp_cli.runs.directory import Run
from cfp_cli.runs.inputs import ModelInput
from cfp_cli.runs.outputs import is_file_of
from cfp_cli.runs.records import BenchMetrics, BenchRecord, Inputs


def run_bench(
    run: Run,
    models: Sequence[ModelInput],
    *,
    batches: Sequence[int] = (1, 64),
    seconds: float = 1.0,
    memory: Memory = "contiguous",
    onnx: bool = True,
    openvino: bool = True,
    device: torch.device,
    progress: Progress = SILENT,
) -> list[Benchmark]:
    """Count and time checkpoints in turns, with the number of CPU threads that torch uses.

    Args:
        run: the run directory; it gets a record if one of the models belongs to the run.
        models: the checkpoints; their paths name them in the result.
        batches: batch sizes.
        seconds: time to spend on each network, batch size and runtime.
        memory: memory layout of images and weights for torch.
        onnx: also time onnxruntime on the CPU, if it is installed.
        openvino: also time OpenVINO on the CPU, if it is installed.
        device: device of torch.
        progress: reports progress.

    Raises:
        UsageError: a model is given twice.
        CheckpointError: a file cannot be read.
    """
    began = time.perf_counter()
    names = [str(model.path) for model in models]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UsageError(f"{repeated[0]} is given twice; pass each model once")
    loaded = {name: model.load(progress).to(device) for name, model in zip(names, _of_one_size(models), strict=True)}
    _warn_of_sizes(loaded, progress)
    results = benchmark(
        loaded,
        {name: model.path for name, model in zip(names, models, strict=True)},
        batches,
        seconds=seconds,
        memory=memory,
        onnx=onnx,
        openvino=openvino,
        progress=progress,
    )
    types = [stored_type(model.path, unsafe_pickle=model.unsafe_pickle) for model in models]
    results = [replace(result, stored=stored) for result, stored in zip(results, types, strict=True)]
    inputs = Inputs(models=tuple(model.record() for model in models))
    if any(is_file_of(run, each.sha256) for each in inputs.models):
        run.add(
            BenchRecord(
                arguments={"batches": list(batches), "seconds": seconds, "memory": memory, "device": str(device)},
                seed=0,
                inputs=inputs,
                seconds=time.perf_counter() - began,
                metrics=BenchMetrics(tuple(results)),
            )
        )
    return results


def _of_one_size(models: Sequence[ModelInput]) -> list[ModelInput]:
    """Let files of other tools that do not store their input size take that of the first checkpoint of cfp."""
    for model in models:
        contents = read_contents(model.path, unsafe_pickle=model.unsafe_pickle)
        if contents.own:
            size = ModelSpec.from_json(contents.facts, model.path).input_size
            return [replace(each, input_size=each.input_size or size) for each in models]
    return list(models)


def _warn_of_sizes(models: Mapping[str, nn.Module], progress: Progress) -> None:
    sizes = {name: " x ".join(map(str, spec_of(model).input_size)) for name, model in models.items()}
    if len(set(sizes.values())) > 1:
        shown = "; ".join(f"{name}: {size}" for name, size in sizes.items())
        progress.say(f"warning: the models are timed on images of different sizes ({shown}); pass --input-size")

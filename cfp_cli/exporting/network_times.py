"""The latency of networks in one runtime, measured in turns."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from torch import nn

from cfp_cli.checkpoints.spec import spec_of
from cfp_cli.exporting import onnx_file
from cfp_cli.exporting.layer_times import Setting
from cfp_cli.exporting.metadata import describe_file
from cfp_cli.exporting.runtimes import opener
from cfp_cli.measuring.latency import Latency, Shape, measure_latency, summarise, time_in_turns

SECONDS = 1.0


def onnx_content(model: nn.Module) -> bytes:
    """Return a network as the content of the ONNX file that `cfp export` writes.

    Raises:
        CfpError: the network has no ONNX form.
    """
    spec = spec_of(model)
    network = copy.deepcopy(model).cpu().eval().to(memory_format=torch.contiguous_format)
    example = torch.rand(2, *spec.input_shape, generator=torch.Generator().manual_seed(0))
    return onnx_file.to_bytes(network, example, describe_file(spec, int8=False))


def time_files(files: Mapping[str, bytes], shape: Shape, setting: Setting, seconds: float = SECONDS) -> list[Latency]:
    """Time ONNX files in onnxruntime or OpenVINO; return their latencies in the order of `files`.

    Args:
        files: contents of ONNX files by name.
        shape: channels, height and width of the images.
        setting: runtime, threads and batch.
        seconds: time for each file.

    Raises:
        CfpError: the runtime refuses a file.
    """
    images = np.random.default_rng(0).random((setting.batch, *shape), np.float32)
    open_file = opener(setting.runtime, setting.threads)
    calls = {name: partial(open_file(content), images) for name, content in files.items()}
    times = time_in_turns(calls, seconds)
    return [summarise(times[name], setting.batch, setting.threads, setting.runtime) for name in files]


def time_modules(
    models: Mapping[str, nn.Module], shape: Shape, setting: Setting, seconds: float = SECONDS
) -> list[Latency]:
    """Time networks in eager torch on the CPU; see `time_files`."""
    copies = {name: copy.deepcopy(model).cpu() for name, model in models.items()}
    found = measure_latency(copies, shape, (setting.batch,), setting.threads, seconds)
    return [found[name][0] for name in models]

"""PyTorch's exported program. Python and C++ run it without the code of the network."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from cfp_cli.execution.forward import forward_errors
from cfp_cli.execution.outputs import all_tensors_of
from cfp_cli.exporting.fold import fold_batch_norms
from cfp_cli.exporting.metadata import INPUT
from cfp_cli.foundation.errors import CfpError
from cfp_cli.foundation.failures import outside_cause
from cfp_cli.graph.trace import exporting_quietly
from cfp_cli.models.forward_pass import run_network

_EXTRA = "cfp.json"


def trace(model: nn.Module, example: Tensor) -> ExportedProgram:
    """Return the graph of a network in eval mode, with batch norms folded and any batch size accepted.

    Args:
        model: on the CPU.
        example: float32 [n >= 2, channels, H, W].

    Raises:
        CfpError: the network fails on the example, or cannot be traced for any batch size.
    """
    named = _Named(model).eval()
    with torch.no_grad(), forward_errors(example.shape):
        named(example)
        # Some networks, such as those of Ultralytics, keep the shape of their last batch and compare the next one with
        # it. torch.export would then fix or exclude a batch size, unless the last batch was a single image.
        named(example[:1])
    try:
        with exporting_quietly(), torch.no_grad():
            shapes = {INPUT: {0: Dim("batch", min=1)}}
            program = torch.export.export(named, (example,), dynamic_shapes=shapes, strict=False)
            module = program.module(check_guards=False)
            fold_batch_norms(module)
            program = torch.export.export(module, (example,), dynamic_shapes=shapes, strict=False)
    except Exception as error:
        if outside_cause(error) is not None:
            raise
        # torch.export raises errors of many kinds, some of them private.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise CfpError(
            f"the network cannot be traced for export ({reason}); make its forward free of data-dependent code"
        ) from error
    return program


def to_bytes(model: nn.Module, example: Tensor, metadata: dict[str, str]) -> bytes:
    """Return the content of a `.pt2` file.

    Raises:
        CfpError: the network cannot be traced.
    """
    program = trace(model, example)
    # Source positions and the images of the trace would only make the file larger.
    for node in program.graph.nodes:
        for fact in ("stack_trace", "nn_module_stack", "torch_fn"):
            node.meta.pop(fact, None)
    program.example_inputs = None
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, buffer, extra_files={_EXTRA: json.dumps(metadata)})
    return _deflated(buffer)


def _deflated(archive: BinaryIO) -> bytes:
    """Return the zip archive with its members compressed. The graph is JSON, most of a small file."""
    content = io.BytesIO()
    with (
        zipfile.ZipFile(archive) as plain,
        zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as small,
    ):
        for member in plain.infolist():
            small.writestr(member.filename, plain.read(member))
    return content.getvalue()


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a file, without loading the network; empty for a file of another program.

    Raises:
        CfpError: the file is not a `.pt2` file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # torch puts the file in a folder that has the name of the archive.
            members = [name for name in archive.namelist() if name.endswith(f"extra/{_EXTRA}")]
            if not members:
                return {}
            content = json.loads(archive.read(members[0]))
    except (zipfile.BadZipFile, ValueError, RecursionError) as error:
        raise CfpError(f"{path} is damaged or is not a .pt2 file ({error}); export it again") from error
    return {str(key): str(value) for key, value in content.items()} if isinstance(content, dict) else {}


def runner(path: Path) -> Callable[[Tensor], Any]:
    """Return the file as a function from images float32 [n, channels, H, W] to the logits or a tuple of outputs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.export.load(path).module()

    def run(images: Tensor) -> Any:
        with torch.no_grad():
            return module(images)

    return run


class _Named(nn.Module):
    """The network with its input named as in the other formats. It returns one tensor, or a tuple of all outputs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        outputs = all_tensors_of(run_network(self.network, images))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

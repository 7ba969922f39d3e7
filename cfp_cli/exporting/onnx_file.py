"""ONNX, the format that most runtimes of edge computers read."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cfp_cli.execution.outputs import output_names
from cfp_cli.exporting.metadata import INPUT
from cfp_cli.exporting.pt2_file import trace
from cfp_cli.foundation.errors import CfpError
from cfp_cli.foundation.extras import require_packages
from cfp_cli.models.forward_pass import run_network

NEEDS = ("onnx", "onnxscript", "onnxruntime")
# Protocol buffers are limited to 2 GiB. Larger networks would need a second file for the weights.
_LARGEST = 2**31 - 1


def require_extra(purpose: str = "ONNX export", needs: Sequence[str] = NEEDS) -> None:
    """Check that the packages of this format are installed.

    Args:
        purpose: what needs them, for the message.
        needs: the packages.

    Raises:
        MissingExtraError: one is missing or broken; the message says how to install it.
    """
    require_packages(purpose, needs)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress what the exporters print, log and warn."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def to_bytes(model: nn.Module, example: Tensor, metadata: dict[str, str]) -> bytes:
    """Return the content of an `.onnx` file. Batch norms are folded, weights are included, any batch size is accepted.

    Args:
        model: on the CPU, in eval mode.
        example: float32 [n >= 2, channels, H, W].
        metadata: text values by key.

    Raises:
        CfpError: the network cannot be traced, or an operator has no ONNX form.
    """
    program = trace(model, example)
    with torch.no_grad():
        names = output_names(run_network(model, example))
    try:
        with quiet(), torch.no_grad():
            exported = torch.onnx.export(
                program, dynamo=True, input_names=[INPUT], output_names=names, external_data=False, verbose=False
            )
            if exported is None:
                raise RuntimeError("the exporter returned nothing")
            proto = exported.model_proto
    except Exception as error:
        # The exporter raises long errors of many kinds. The last in the chain is the cause.
        reason = (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise CfpError(f"the network has no ONNX form ({reason}); try --format pt2") from error
    strip(proto)
    _name_batch(proto)
    for key, text in metadata.items():
        proto.metadata_props.add(key=key, value=text)
    if proto.ByteSize() > _LARGEST:
        raise CfpError(
            f"the network takes {proto.ByteSize() / 2**30:.1f} GiB, but an ONNX file holds at most 2; use --format pt2"
        )
    content: bytes = proto.SerializeToString()
    return content


def _name_batch(proto: Any) -> None:
    """Name the dimension of the batch in the input and in all outputs that have it."""
    traced = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*proto.graph.input, *proto.graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param == traced:
                dimension.dim_param = "batch"


def strip(proto: Any) -> None:
    """Remove source positions and source paths from a model, which its users do not need."""
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    # Readers infer the shapes of inner values again.
    graph.ClearField("value_info")


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a file; see `session`."""
    return dict(session(path).get_modelmeta().custom_metadata_map)


def session(content: Path | bytes, threads: int | None = None) -> Any:
    """Return an onnxruntime session on the CPU.

    Args:
        content: the file, or its bytes.
        threads: CPU threads; None uses all cores.

    Raises:
        CfpError: onnxruntime is missing or refuses the file.
    """
    require_extra("running an ONNX file", ("onnxruntime",))
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # By default its threads spin between runs and slow the network that is timed next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(
            str(content) if isinstance(content, Path) else content, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        what = content if isinstance(content, Path) else "the exported network"
        remedy = "export it again" if isinstance(content, Path) else "try --format pt2"
        raise CfpError(f"onnxruntime refuses {what} ({reason}); {remedy}") from error


def runner(content: Path | bytes) -> Callable[[Tensor], Tensor | tuple[Tensor, ...]]:
    """Return a file as a function from images float32 [n, channels, H, W] to the logits or a tuple of outputs."""
    opened = session(content)

    def run(images: Tensor) -> Tensor | tuple[Tensor, ...]:
        outputs = tuple(map(torch.from_numpy, opened.run(None, {INPUT: images.contiguous().numpy()})))
        return outputs[0] if len(outputs) == 1 else outputs

    return run

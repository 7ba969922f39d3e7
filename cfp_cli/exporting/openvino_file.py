"""OpenVINO's IR, which Intel processors and accelerators run: `NAME.xml` with the graph, `NAME.bin` with the weights.

The IR is converted from the ONNX form of the network, so both formats contain the same operators.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree import ElementTree

import torch
from torch import Tensor

from cfp_cli.execution.signal_stack import keep_signal_stack
from cfp_cli.exporting.metadata import INPUT
from cfp_cli.foundation.errors import CfpError, StorageError, UsageError
from cfp_cli.foundation.extras import require_packages
from cfp_cli.foundation.files import write_atomic

NEEDS = ("onnx", "onnxscript", "openvino")
_METADATA = "cfp"
# On recent processors OpenVINO computes float32 networks in bfloat16 by default, with errors near 1 % of the logits.
_FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}


def require_extra() -> None:
    """Check that the packages of this format are installed.

    Raises:
        MissingExtraError: one is missing or broken; the message says how to install it.
    """
    require_packages("OpenVINO", NEEDS)


def require_name(path: Path) -> None:
    """Check that OpenVINO can read a file of this name.

    Raises:
        UsageError: it does not end in `.xml`.
    """
    if path.suffix != ".xml":
        raise UsageError(
            f"'{path}' does not end in .xml, as OpenVINO files do; use '{path.with_suffix('.xml')}', the weights go to "
            f"'{path.with_suffix('.bin')}'"
        )


def weights_path(path: Path) -> Path:
    """Return the path of the weights of an `.xml` file."""
    return path.with_suffix(".bin")


def convert(onnx_content: bytes, path: Path, metadata: dict[str, str]) -> None:
    """Convert the content of an ONNX file and write `path` and its weights, in full precision.

    Args:
        onnx_content: the ONNX file.
        path: `.xml` file in a folder of its own; not written atomically.
        metadata: text values by key, stored as `rt_info/cfp` of the `.xml` file.

    Raises:
        CfpError: packages are missing, or OpenVINO cannot read the network.
        StorageError: OpenVINO cannot write the files.
    """
    require_extra()
    import openvino

    try:
        model = openvino.Core().read_model(onnx_content)
        for key, text in metadata.items():
            model.set_rt_info(text, [_METADATA, key])
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise CfpError(f"OpenVINO cannot read the network ({_reason(error)}); try another --format") from error
    try:
        openvino.save_model(model, path, compress_to_fp16=False)
    except Exception as error:
        # OpenVINO does not pass on the error of the system.
        raise StorageError(
            f"cannot write {path.parent}: OpenVINO reports {_reason(error)!r}; free space there, or raise `ulimit -f`"
        ) from error


def write(source: Path, path: Path) -> int:
    """Copy an `.xml` file and its weights to `path`; return the number of bytes of both.

    The two are replaced such that no moment leaves the graph of one export with the weights of another: the old `.xml`
    is deleted before the new weights appear, and the new `.xml` appears last.
    """
    graph, weights = source.read_bytes(), weights_path(source).read_bytes()

    def replace_weights() -> None:
        write_atomic(
            weights_path(path),
            lambda file: _write_all(file, weights),
            before_rename=lambda: path.resolve().unlink(missing_ok=True),
        )

    # Both files are on the disk before the first of them is renamed, so a full disk changes neither.
    write_atomic(path, lambda file: _write_all(file, graph), before_rename=replace_weights)
    return len(graph) + len(weights)


def _write_all(file: BinaryIO, content: bytes) -> None:
    file.write(content)


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata that `convert` stored; empty for a file of another program.

    Raises:
        CfpError: the file is not XML.
    """
    try:
        entries = ElementTree.parse(path).getroot().findall(f"rt_info/{_METADATA}/*")
    except ElementTree.ParseError as error:
        raise CfpError(f"{path} is damaged or is not an OpenVINO file ({error}); export it again") from error
    return {entry.tag: entry.get("value", "") for entry in entries}


def runner(content: Path | bytes, threads: int | None = None) -> Callable[[Tensor], Tensor | tuple[Tensor, ...]]:
    """Return an `.xml` file as a function from images float32 [n, channels, H, W] to the logits or a tuple of outputs.

    Args:
        content: `.xml` file, or the content of an ONNX file.
        threads: CPU threads; None uses all cores.

    Raises:
        CfpError: packages are missing, or OpenVINO cannot run the file.
    """
    request = compiled(content, threads)

    def run(images: Tensor) -> Tensor | tuple[Tensor, ...]:
        # The request reuses the memory of its outputs, so they are copied.
        outputs = tuple(map(torch.tensor, request({INPUT: images.contiguous().numpy()}).to_tuple()))
        return outputs[0] if len(outputs) == 1 else outputs

    return run


def compiled(content: Path | bytes, threads: int | None = None) -> Any:
    """Return a network compiled by OpenVINO for the CPU in float32; see `runner`."""
    require_extra()
    import openvino

    config: dict[str, Any] = dict(_FLOAT32)
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = threads
    core = openvino.Core()
    try:
        with keep_signal_stack():
            return core.compile_model(core.read_model(content), "CPU", config)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise CfpError(f"OpenVINO cannot run the network ({_reason(error)}); try another --format") from error


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # The first lines of OpenVINO's errors are positions in its source.
    plain = [line for line in lines if not line.startswith(("Exception from", "Check "))]
    return ((plain or lines or [type(error).__name__])[0])[:200]

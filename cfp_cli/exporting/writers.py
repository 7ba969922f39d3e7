"""The table of export formats: how the files of each format are made, run and copied."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from cfp_cli.checkpoints.export_formats import Format
from cfp_cli.exporting import onnx_file, openvino_file, pt2_file
from cfp_cli.exporting.agreement import Runner
from cfp_cli.foundation.files import write_bytes

Metadata = dict[str, str]


@dataclass(frozen=True)
class Writer:
    """How the files of one format are made.

    Attributes:
        check: raises a `CfpError` if a package is missing or the format does not allow the path.
        to_bytes: returns the network as bytes. It takes the network, example images and metadata.
        int8: returns the bytes of a quantised ONNX file as a function from images to its outputs, in the runtime of the
            format; None if these bytes are not an ONNX file, so that they cannot be quantised.
        write: writes the bytes to a path in the format, not atomically. It takes bytes, path and metadata.
        runner: returns a file as a function from images to its outputs.
        copy: copies a finished file to a path atomically, and returns the number of bytes.
        files: the files of an export to a path, by their names in the record.
    """

    check: Callable[[Path], None]
    to_bytes: Callable[[nn.Module, Tensor, Metadata], bytes]
    int8: Callable[[bytes], Runner] | None
    write: Callable[[bytes, Path, Metadata], None]
    runner: Callable[[Path], Runner]
    copy: Callable[[Path, Path], int]
    files: Callable[[Path], dict[str, Path]]


def _check_openvino(path: Path) -> None:
    openvino_file.require_name(path)
    openvino_file.require_extra()


def _write_bytes(content: bytes, path: Path, _metadata: Metadata) -> None:
    path.write_bytes(content)


def _copy(source: Path, path: Path) -> int:
    content = source.read_bytes()
    write_bytes(path, content)
    return len(content)


def _one_file(path: Path) -> dict[str, Path]:
    return {"export": path}


WRITERS: Mapping[Format, Writer] = {
    "onnx": Writer(
        check=lambda _path: onnx_file.require_extra(),
        to_bytes=onnx_file.to_bytes,
        int8=onnx_file.runner,
        write=_write_bytes,
        runner=onnx_file.runner,
        copy=_copy,
        files=_one_file,
    ),
    "pt2": Writer(
        check=lambda _path: None,
        to_bytes=pt2_file.to_bytes,
        int8=None,
        write=_write_bytes,
        runner=pt2_file.runner,
        copy=_copy,
        files=_one_file,
    ),
    "openvino": Writer(
        check=_check_openvino,
        to_bytes=onnx_file.to_bytes,
        int8=openvino_file.runner,
        write=openvino_file.convert,
        runner=openvino_file.runner,
        copy=openvino_file.write,
        files=lambda path: {"export": path, "weights": openvino_file.weights_path(path)},
    ),
}

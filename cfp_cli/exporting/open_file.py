"""Opens an exported file as a function from images to logits, with the spec that its metadata contain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from cfp_cli.checkpoints.export_formats import ENDINGS, Format
from cfp_cli.checkpoints.spec import ModelSpec
from cfp_cli.exporting import onnx_file, openvino_file, pt2_file
from cfp_cli.exporting.agreement import Runner
from cfp_cli.exporting.metadata import read_spec
from cfp_cli.exporting.writers import WRITERS
from cfp_cli.foundation.errors import CfpError, CheckpointError
from cfp_cli.foundation.failures import outside_cause
from cfp_cli.foundation.files import path_hint

_METADATA: Mapping[Format, Callable[[Path], dict[str, str]]] = {
    "onnx": onnx_file.read_metadata,
    "pt2": pt2_file.read_metadata,
    "openvino": openvino_file.read_metadata,
}


def format_of(path: Path) -> Format | None:
    """Return the export format of a file by its ending; None for a checkpoint."""
    return next((name for name, ending in ENDINGS.items() if path.suffix.lower() == ending), None)


def open_export(path: Path, format: Format, *, unsafe_pickle: bool = False) -> tuple[Runner, ModelSpec]:
    """Open a file that `cfp export` wrote.

    Args:
        path: the file; for OpenVINO the `.xml` file.
        format: its format.
        unsafe_pickle: also open a `.pt2` file; torch unpickles parts of it, so such a file can run code.

    Returns:
        The file as a function from images float32 [n, channels, H, W] to its outputs, such as the logits, and its spec.

    Raises:
        CheckpointError: the file is missing or not trusted, or its metadata are missing or wrong.
        CfpError: a package is missing, or its runtime cannot open the file.
    """
    if not path.is_file():
        raise CheckpointError(f"no such file {path}; {path_hint(path, 'check the path of the model')}")
    if format == "pt2" and not unsafe_pickle:
        raise CheckpointError(
            f"{path} can run code when it is opened, as all .pt2 files can; pass --unsafe-pickle if you trust it"
        )
    spec = read_spec(_METADATA[format](path), path)
    try:
        return WRITERS[format].runner(path), spec
    except CfpError:
        raise
    except Exception as error:
        if outside_cause(error) is not None:
            raise
        # torch.export.load raises errors of many kinds on damaged files.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(f"{path} cannot be opened ({reason}); export it again") from error

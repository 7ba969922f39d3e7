"""Run the content of an ONNX file in the runtimes that read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cfp_cli.exporting import onnx_file, openvino_file
from cfp_cli.exporting.metadata import INPUT
from cfp_cli.foundation.extras import is_installed, require_packages
from cfp_cli.measuring.runtimes import Runtime

Pass = Callable[[np.ndarray[Any, Any]], Any]
Opener = Callable[[bytes], Pass]

NEEDS: dict[Runtime, Sequence[str]] = {
    "onnxruntime": onnx_file.NEEDS,
    "openvino": openvino_file.NEEDS,
    "torch": (),
}


def is_available(runtime: Runtime) -> bool:
    """Whether the packages of a runtime are installed."""
    return all(map(is_installed, NEEDS[runtime]))


def require(runtime: Runtime) -> None:
    """Check that a runtime can be used.

    Raises:
        MissingExtraError: a package is missing or broken; the message says how to install it.
    """
    require_packages(f"the latency of {runtime}", NEEDS[runtime])


def opener(runtime: Runtime, threads: int) -> Opener:
    """Return a function from the content of an ONNX file to a forward pass on the CPU.

    The input of the file is `images`.

    Args:
        runtime: `onnxruntime` or `openvino`.
        threads: CPU threads.
    """

    def onnxruntime_pass(content: bytes) -> Pass:
        session = onnx_file.session(content, threads)
        return lambda images: session.run(None, {INPUT: images})

    def openvino_pass(content: bytes) -> Pass:
        compiled = openvino_file.compiled(content, threads)
        return lambda images: compiled({INPUT: images})

    return openvino_pass if runtime == "openvino" else onnxruntime_pass

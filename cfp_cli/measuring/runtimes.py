"""The names of the runtimes whose latency can be measured. This module imports nothing heavy, `--help` reads it."""

from __future__ import annotations

from typing import Literal, get_args

Runtime = Literal["onnxruntime", "torch", "openvino"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)

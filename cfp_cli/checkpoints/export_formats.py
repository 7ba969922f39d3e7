"""The formats of `cfp export` and the ending of their files. This module imports nothing heavy, `--help` reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

Format = Literal["onnx", "pt2", "openvino"]
FORMATS: tuple[Format, ...] = get_args(Format)
# An OpenVINO file has a second file beside it, with the weights.
ENDINGS: Mapping[Format, str] = {"onnx": ".onnx", "pt2": ".pt2", "openvino": ".xml"}

"""Static 8-bit quantisation of an ONNX file: weights per channel, activations by the range seen on training images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from cfp_cli.exporting.metadata import INPUT
from cfp_cli.exporting.onnx_file import hushed, require_extra, strip
from cfp_cli.foundation.errors import CfpError
from cfp_cli.foundation.scratch import scratch_folder

_BATCH = 16


def quantised(content: bytes, calibration: Tensor, metadata: dict[str, str]) -> bytes:
    """The int8 form of an ONNX file, in QDQ format (each operator between a dequantise and a quantise).

    Args:
        content: the float32 file.
        calibration: training images, float32 [n, 3, H, W], preprocessed.
        metadata: text values by key, of the new file.

    Raises:
        CfpError: packages are missing, or the quantiser refuses the network.
    """
    require_extra()
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(CalibrationDataReader):  # type: ignore[misc]
        """The calibration images, a batch at a time."""

        def __init__(self) -> None:
            self.batches: Iterator[Tensor] = iter(calibration.tensor_split(max(1, len(calibration) // _BATCH)))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: batch.contiguous().numpy()}

    with scratch_folder() as folder:
        source, ready, result = (folder / f"{step}.onnx" for step in ("float", "ready", "int8"))
        source.write_bytes(content)
        try:
            with hushed():
                quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
                quantize_static(
                    str(ready),
                    str(result),
                    Images(),
                    quant_format=QuantFormat.QDQ,
                    per_channel=True,
                    activation_type=QuantType.QInt8,
                    weight_type=QuantType.QInt8,
                )
        except (OSError, MemoryError):
            raise
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise CfpError(f"the network cannot be quantised ({reason}); export it without --int8") from error
        proto = onnx.load(result)
    strip(proto)
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=value)
    quantised_content: bytes = proto.SerializeToString()
    return quantised_content

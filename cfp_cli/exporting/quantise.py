"""Static 8-bit quantisation of an ONNX file: weights per channel, activations by their range on training images.

onnxruntime quantises in four ways. The range of an activation is that of all training images, or the mean over batches,
which a few outliers widen less. Weights have 8 bits, or 7: processors without VNNI add pairs of products in 16 bits,
which saturate with 8. If NNCF is installed, it quantises too. Each file runs on this machine, and the file whose logits
are closest to those of the network on the training images is used; test images take no part in the choice.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any, Literal

from torch import Tensor, nn

from cfp_cli.execution.signal_stack import keep_signal_stack
from cfp_cli.exporting.agreement import compute_outputs
from cfp_cli.exporting.metadata import INPUT
from cfp_cli.exporting.onnx_file import quiet, require_extra, runner, strip
from cfp_cli.foundation.errors import CfpError
from cfp_cli.foundation.extras import is_installed
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.foundation.scratch import scratch_folder

Quantiser = Literal["onnxruntime", "nncf"]

_BATCH = 16
# NNCF reports its use to a server of its makers unless this is set when it is imported.
_NO_TELEMETRY = "NNCF_CI"


def quantise(
    network: nn.Module, content: bytes, calibration: Tensor, metadata: dict[str, str], progress: Progress = SILENT
) -> tuple[bytes, Quantiser]:
    """Return the int8 form of an ONNX file in QDQ format, and the name of the quantiser that made it.

    Args:
        network: the network of the file, on the CPU, in eval mode.
        content: the float32 file.
        calibration: training images, float32 [n, channels, H, W], preprocessed.
        metadata: text values by key, of the new file.
        progress: reports progress.

    Raises:
        CfpError: packages are missing, or no quantiser accepts the network.
    """
    require_extra()
    ways: list[tuple[Quantiser, str, Callable[[bytes, Tensor], Any]]] = [
        ("onnxruntime", f" ({ranges}, {bits}-bit weights)", partial(by_onnxruntime, mean=mean, bits=bits))
        for (ranges, mean), bits in product((("largest ranges", False), ("mean ranges", True)), (8, 7))
    ]
    if is_installed("nncf"):
        ways.append(("nncf", "", _by_nncf))
    expected = compute_outputs(network, calibration)[0]
    candidates: list[tuple[float, bytes, Quantiser]] = []
    reasons = []
    for name, how, quantiser in progress.track(ways, "quantising", total=len(ways), unit="file"):
        progress.say(f"quantising by {name}{how} on {len(calibration)} images")
        try:
            with quiet():
                proto = quantiser(content, calibration)
            strip(proto)
            for key, value in metadata.items():
                proto.metadata_props.add(key=key, value=value)
            candidate = proto.SerializeToString()
            run = runner(candidate)
        except (OSError, MemoryError):
            raise
        except Exception as failure:
            # The quantisers raise errors of many kinds.
            reasons.append((str(failure).strip().splitlines() or [type(failure).__name__])[0][:200])
            continue
        actual = compute_outputs(run, calibration)[0]
        error = (actual - expected).square().mean().item()
        if not math.isfinite(error):
            reasons.append("logits that are NaN or infinite")
            continue
        candidates.append((error, candidate, name))
        progress.say(f"logits of the int8 file by {name}{how} differ by {error**0.5:.2g} (root mean square)")
    if not candidates:
        raise CfpError(f"the network cannot be quantised ({reasons[0]}); export it without --int8")
    _, best, name = min(candidates, key=lambda candidate: candidate[0])
    return best, name


def by_onnxruntime(content: bytes, calibration: Tensor, mean: bool, bits: int) -> Any:
    """Return an ONNX file as onnxruntime quantises it, an ONNX `ModelProto` in QDQ format.

    Args:
        content: the float32 file.
        calibration: training images, float32 [n, channels, H, W], preprocessed.
        mean: whether the range of an activation is the mean over batches of 16 images, not that of all images.
        bits: of the weights, 8 or 7.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(CalibrationDataReader):  # type: ignore[misc]
        """The calibration images in batches."""

        def __init__(self) -> None:
            self.batches: Iterator[Tensor] = iter(calibration.tensor_split(max(1, len(calibration) // _BATCH)))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: batch.contiguous().numpy()}

    with scratch_folder() as folder:
        source, prepared, result = (folder / f"{stage}.onnx" for stage in ("float", "prepared", "int8"))
        source.write_bytes(content)
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(result),
            Images(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            reduce_range=bits == 7,
            extra_options={"CalibMovingAverage": mean},
        )
        return onnx.load(result)


def _by_nncf(content: bytes, calibration: Tensor) -> Any:
    import onnx

    # NNCF shows its own progress bars.
    with keep_signal_stack(), _without_telemetry(), contextlib.redirect_stderr(io.StringIO()):
        import nncf

        images = nncf.Dataset([{INPUT: image.unsqueeze(0).contiguous().numpy()} for image in calibration])
        return nncf.quantize(onnx.load_from_string(content), images, subset_size=len(calibration))


@contextlib.contextmanager
def _without_telemetry() -> Iterator[None]:
    before = os.environ.get(_NO_TELEMETRY)
    os.environ[_NO_TELEMETRY] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_NO_TELEMETRY]
        else:
            os.environ[_NO_TELEMETRY] = before

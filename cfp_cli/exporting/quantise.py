"""Static 8-bit quantisation of an ONNX file: weights per channel, activations by their range on training images.

onnxruntime quantises in four ways. The range of an activation is that of all training images, or the mean over batches,
which a few outliers widen less. Weights have 8 bits, or 7: processors without VNNI add pairs of products in 16 bits,
which saturate with 8. If NNCF is installed, it quantises too. Each file runs on this machine, and the one whose logits
are closest to those of the network on the training images is used; test images take no part in the choice.

The first layers stay in float32 where they have a small part of the multiply-adds (`float_part`).
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

from torch import Tensor

from cfp_cli.execution.signal_stack import keep_signal_stack
from cfp_cli.exporting import onnx_file
from cfp_cli.exporting.agreement import Runner, compute_outputs
from cfp_cli.exporting.float_part import prepare
from cfp_cli.exporting.metadata import INPUT
from cfp_cli.foundation.errors import CfpError, StorageError
from cfp_cli.foundation.extras import is_installed
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.foundation.scratch import scratch_folder

# From a prepared ONNX file, the names of its nodes that stay in float32 and calibration images to an ONNX `ModelProto`
# in QDQ format.
Quantiser = Callable[[bytes, Sequence[str], Tensor], Any]

_BATCH = 16
# Fewer images are quantised in smaller batches, so that mean ranges differ from the largest.
_BATCHES = 4
# NNCF reports its use to a server of its makers unless this is set when it is imported.
_NO_TELEMETRY = "NNCF_CI"


@dataclass(frozen=True)
class Quantised:
    """An int8 file.

    Attributes:
        content: an ONNX file in QDQ format.
        quantiser: how it was quantised, such as `nncf`.
        float32_layers: number of the first layers that stay in float32.
        layers: number of convolutions, linear layers and matrix products.
    """

    content: bytes
    quantiser: str
    float32_layers: int
    layers: int


def quantise(
    network: Runner,
    content: bytes,
    calibration: Tensor,
    metadata: dict[str, str],
    runner: Callable[[bytes], Runner] = onnx_file.runner,
    progress: Progress = SILENT,
) -> Quantised:
    """Return the int8 form of an ONNX file.

    Args:
        network: the network of the file, on the CPU, in eval mode, or a function of the same outputs.
        content: the float32 file.
        calibration: training images, float32 [n, channels, H, W], preprocessed.
        metadata: text values by key, of the new file.
        runner: runs the content of an int8 file in the runtime that it is made for.
        progress: reports progress.

    Raises:
        CfpError: packages are missing, the network has logits that are NaN or infinite on a calibration image, or no
            quantiser accepts it.
        StorageError: the disk is full.
    """
    onnx_file.require_extra()
    expected = compute_outputs(network, calibration)[0].double()
    if not expected.isfinite().all():
        raise CfpError("the network has logits that are NaN or infinite on training images, so it cannot be quantised")
    try:
        with onnx_file.quiet():
            part = prepare(content)
    except (StorageError, OSError, MemoryError):
        raise
    except Exception as failure:
        raise CfpError(f"the network cannot be quantised ({_first_line(failure)}); export it without --int8") from None
    ways = dict(BY_ONNXRUNTIME) | ({"nncf": _by_nncf} if is_installed("nncf") else {})
    candidates: list[tuple[float, bytes, str]] = []
    reason = ""
    for way, quantiser in progress.track(ways.items(), "quantising", total=len(ways), unit="candidate"):
        try:
            with onnx_file.quiet():
                proto = quantiser(part.content, part.nodes, calibration)
            onnx_file.strip(proto)
            for key, value in metadata.items():
                proto.metadata_props.add(key=key, value=value)
            candidate = proto.SerializeToString()
            actual = compute_outputs(runner(candidate), calibration)[0].double()
        except (StorageError, OSError, MemoryError):
            raise
        except Exception as failure:
            # The quantisers raise errors of many kinds.
            reason = _first_line(failure)
            progress.say(f"no int8 file by {way}: {reason}")
            continue
        if not actual.isfinite().all():
            reason = "the logits of the int8 file are NaN or infinite"
            progress.say(f"no int8 file by {way}: {reason}")
            continue
        error = (actual - expected).square().mean().item()
        candidates.append((error, candidate, way))
        progress.say(f"int8 by {way}: logits differ by {error**0.5:.2g} (root mean square)")
    if not candidates:
        raise CfpError(f"the network cannot be quantised ({reason}); export it without --int8")
    _, best, way = min(candidates, key=lambda candidate: candidate[0])
    return Quantised(best, way, part.float32_layers, part.layers)


def _first_line(failure: Exception) -> str:
    return (str(failure).strip().splitlines() or [type(failure).__name__])[0][:200]


def _by_onnxruntime(prepared: bytes, nodes: Sequence[str], calibration: Tensor, mean: bool, bits: int) -> Any:
    """Return an ONNX file as onnxruntime quantises it, an ONNX `ModelProto` in QDQ format.

    Args:
        prepared: the file, prepared for quantisation.
        nodes: names of the nodes that stay in float32.
        calibration: training images, float32 [n, channels, H, W], preprocessed.
        mean: whether the range of an activation is the mean over batches of about 16 images, not that of all images.
        bits: of the weights, 8 or 7.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader

    class Images(CalibrationDataReader):  # type: ignore[misc]
        """The calibration images in batches."""

        def __init__(self) -> None:
            batches = min(len(calibration), max(_BATCHES, len(calibration) // _BATCH))
            self.batches: Iterator[Tensor] = iter(calibration.tensor_split(batches))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: batch.contiguous().numpy()}

    with scratch_folder() as folder:
        result = folder / "int8.onnx"
        quantize_static(
            onnx.load_from_string(prepared),
            str(result),
            Images(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            reduce_range=bits == 7,
            nodes_to_exclude=list(nodes),
            extra_options={"CalibMovingAverage": mean},
        )
        return onnx.load(result)


BY_ONNXRUNTIME: Mapping[str, Quantiser] = {
    f"onnxruntime, {ranges} ranges, {bits}-bit weights": partial(_by_onnxruntime, mean=mean, bits=bits)
    for (ranges, mean), bits in product((("largest", False), ("mean", True)), (8, 7))
}


def _by_nncf(prepared: bytes, nodes: Sequence[str], calibration: Tensor) -> Any:
    import onnx

    # NNCF shows its own progress bars.
    with keep_signal_stack(), _without_telemetry(), contextlib.redirect_stderr(io.StringIO()):
        import nncf

        images = nncf.Dataset([{INPUT: image.unsqueeze(0).contiguous().numpy()} for image in calibration])
        return nncf.quantize(
            onnx.load_from_string(prepared),
            images,
            subset_size=len(calibration),
            ignored_scope=nncf.IgnoredScope(names=list(nodes)),
        )


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

"""Static 8-bit quantisation of an ONNX file: weights per channel, activations by their range on training images.

onnxruntime quantises in four ways. The range of an activation is that of all training images, or the mean over batches,
which a few outliers widen less. Weights have 8 bits, or 7: processors without VNNI add pairs of products in 16 bits,
which saturate with 8. If NNCF is installed, it quantises too. Each file runs on this machine, and the one whose logits
are closest to those of the network on the training images is used; test images take no part in the choice.

The first layer stays in float32, and those that follow it while all have a small part of the multiply-adds together:
they have few weights, and their errors reach all other layers.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain, product, repeat
from typing import Any

from torch import Tensor

from cfp_cli.execution.signal_stack import keep_signal_stack
from cfp_cli.exporting import onnx_file
from cfp_cli.exporting.agreement import Runner, compute_outputs
from cfp_cli.exporting.metadata import INPUT
from cfp_cli.foundation.errors import CfpError, StorageError
from cfp_cli.foundation.extras import is_installed
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.foundation.scratch import scratch_folder

# From a prepared ONNX file, the names of the layers that stay in float32 and calibration images to an ONNX `ModelProto`
# in QDQ format.
Quantiser = Callable[[bytes, Sequence[str], Tensor], Any]

# Largest part of the multiply-adds in the layers that stay in float32: in the first alone, and in all.
FIRST_SHARE, FLOAT_SHARE = 1 / 2, 1 / 8

_LAYERS = ("Conv", "Gemm", "MatMul")
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
        layers: number of convolutions and linear layers.
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
    with onnx_file.quiet():
        prepared, first, layers = prepare(content)
    ways = dict(BY_ONNXRUNTIME) | ({"nncf": _by_nncf} if is_installed("nncf") else {})
    candidates: list[tuple[float, bytes, str]] = []
    reason = ""
    for way, quantiser in progress.track(ways.items(), "quantising", total=len(ways), unit="candidate"):
        try:
            with onnx_file.quiet():
                proto = quantiser(prepared, first, calibration)
            onnx_file.strip(proto)
            for key, value in metadata.items():
                proto.metadata_props.add(key=key, value=value)
            candidate = proto.SerializeToString()
            actual = compute_outputs(runner(candidate), calibration)[0].double()
        except (StorageError, OSError, MemoryError):
            raise
        except Exception as failure:
            # The quantisers raise errors of many kinds.
            reason = (str(failure).strip().splitlines() or [type(failure).__name__])[0][:200]
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
    return Quantised(best, way, len(first), layers)


def prepare(content: bytes) -> tuple[bytes, list[str], int]:
    """Return an ONNX file as onnxruntime prepares it for quantisation, and its layers that stay in float32.

    Layers are convolutions and linear layers. The first has at most `FIRST_SHARE` of the multiply-adds. More follow if
    they have, with it, at most `FLOAT_SHARE`.

    Args:
        content: the float32 file.

    Returns:
        The prepared file, the names of the layers that stay in float32, and the number of layers.
    """
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with scratch_folder() as folder:
        source, prepared = folder / "float.onnx", folder / "prepared.onnx"
        source.write_bytes(content)
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        model = onnx.load(prepared)
    costs = _multiply_adds(model)
    whole, totals = sum(costs.values()), accumulate(costs.values())
    limits = chain([FIRST_SHARE * whole], repeat(FLOAT_SHARE * whole))
    first = [name for name, total, limit in zip(costs, totals, limits, strict=False) if total <= limit]
    return model.SerializeToString(), first, len(costs)


def _multiply_adds(model: Any) -> dict[str, int]:
    """Multiply-adds of each convolution and linear layer for one image, by name, in the order in which they run.

    Args:
        model: ONNX `ModelProto` with the shapes of its values. A size that is not known counts once.
    """
    weights = {each.name: list(each.dims) for each in model.graph.initializer}
    shapes = {
        each.name: [dim.dim_value or 1 for dim in each.type.tensor_type.shape.dim]
        for each in (*model.graph.value_info, *model.graph.output)
    }
    costs: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type in _LAYERS and node.input[1] in weights:
            output = shapes.get(node.output[0], [])
            positions = output[2:] if node.op_type == "Conv" else output[1:-1]
            costs[node.name] = math.prod(weights[node.input[1]]) * math.prod(positions)
    return costs


def _by_onnxruntime(prepared: bytes, first: Sequence[str], calibration: Tensor, mean: bool, bits: int) -> Any:
    """Return an ONNX file as onnxruntime quantises it, an ONNX `ModelProto` in QDQ format.

    Args:
        prepared: the file, prepared for quantisation.
        first: names of the layers that stay in float32.
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
            nodes_to_exclude=list(first),
            extra_options={"CalibMovingAverage": mean},
        )
        return onnx.load(result)


BY_ONNXRUNTIME: Mapping[str, Quantiser] = {
    f"onnxruntime, {ranges} ranges, {bits}-bit weights": partial(_by_onnxruntime, mean=mean, bits=bits)
    for (ranges, mean), bits in product((("largest", False), ("mean", True)), (8, 7))
}


def _by_nncf(prepared: bytes, first: Sequence[str], calibration: Tensor) -> Any:
    import onnx

    # NNCF shows its own progress bars.
    with keep_signal_stack(), _without_telemetry(), contextlib.redirect_stderr(io.StringIO()):
        import nncf

        images = nncf.Dataset([{INPUT: image.unsqueeze(0).contiguous().numpy()} for image in calibration])
        return nncf.quantize(
            onnx.load_from_string(prepared),
            images,
            subset_size=len(calibration),
            ignored_scope=nncf.IgnoredScope(names=list(first)),
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

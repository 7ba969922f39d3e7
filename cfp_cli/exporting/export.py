"""`export`: write a network for another runtime, run the file, and keep it only if its logits agree."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cfp_cli.checkpoints.export_formats import ENDINGS, FORMATS, Format
from cfp_cli.checkpoints.spec import ModelSpec, spec_of
from cfp_cli.exporting import onnx_file
from cfp_cli.exporting.agreement import TOLERANCE, Runner, check, compare
from cfp_cli.exporting.metadata import describe_file
from cfp_cli.exporting.quantise import Quantised, quantise
from cfp_cli.exporting.samples import procedural_images
from cfp_cli.exporting.writers import WRITERS
from cfp_cli.foundation.errors import UsageError
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.foundation.scratch import scratch_folder
from cfp_cli.measuring.metrics import Loader, Metrics, compute_metrics
from cfp_cli.measuring.predictions import require_logits
from cfp_cli.models.forward_pass import run_network


@dataclass(frozen=True)
class ExportReport:
    """The exported file, and how it compares with the checkpoint.

    Attributes:
        path: the file; for OpenVINO the `.xml` file, with the weights beside it in a `.bin` file.
        format: `onnx`, `pt2` or `openvino`.
        precision: `float32` or `int8`.
        bytes: size of the file; for OpenVINO, of both files.
        parameters: number of parameters of the network.
        parameter_bytes: parameters times 4 bytes, or times 1 for int8.
        overhead: file size minus `parameter_bytes`, as a fraction of the latter; in a tiny network most of it is the
            graph and the metadata.
        images: number of images that file and checkpoint were compared on.
        samples: source of these images: `given` or `procedural`.
        top1_agreement: share of images on which both predict the same class. Below 1, a float32 file is accepted only
            if the logits of the differing images are equal within the error budget. None for a network without logits.
        max_relative_error: largest difference of a logit, divided by the largest logit.
        accuracy_before: accuracy of the checkpoint on the evaluation images; int8 only.
        accuracy_after: accuracy of the file on the same images; int8 only.
        macro_f1_before: macro-averaged F1 of the checkpoint on the same images; int8 only.
        macro_f1_after: macro-averaged F1 of the file on the same images; int8 only.
        error_budget: largest accepted error of a float32 file: 1e-4, or 16 times `checkpoint_float64_error` if the file
            was judged against float64.
        float64_error: error of the float32 file against the checkpoint in float64; None if 1e-4 was not exceeded.
        checkpoint_float64_error: error of the checkpoint in float32 against itself in float64; None likewise.
        quantiser: how the int8 file was quantised: `nncf`, or `onnxruntime` with its ranges of activations and the bits
            of its weights; None for float32.
        float32_layers: number of the first layers that stay in float32 in an int8 file; None for float32.
        layers: number of convolutions, linear layers and matrix products of an int8 file; None for float32.
    """

    path: Path
    format: Format
    precision: str
    bytes: int
    parameters: int
    parameter_bytes: int
    overhead: float
    images: int
    samples: str
    top1_agreement: float | None
    max_relative_error: float
    accuracy_before: float | None = None
    accuracy_after: float | None = None
    macro_f1_before: float | None = None
    macro_f1_after: float | None = None
    error_budget: float = TOLERANCE
    float64_error: float | None = None
    checkpoint_float64_error: float | None = None
    quantiser: str | None = None
    float32_layers: int | None = None
    layers: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {**asdict(self), "path": str(self.path)}


def export(
    model: nn.Module,
    path: str | Path,
    format: Format = "onnx",
    *,
    samples: Tensor | None = None,
    int8: bool = False,
    calibration: Tensor | None = None,
    evaluation: Loader | None = None,
    progress: Progress = SILENT,
) -> ExportReport:
    """Write a network to a file for another runtime. The file accepts any batch size and contains its preprocessing.

    The file is run (by onnxruntime, `torch.export.load` or OpenVINO) on images in batches of several sizes. It is kept
    only if it predicts the same classes and its logits differ by at most 1e-4 of the largest, or by no more than
    float32 rounding explains, see `cfp_cli.exporting.agreement`. If a network returns other tensors than logits, all of
    them are compared. An int8 file is made from a file that passed this check. It is kept at any loss of accuracy; the
    report contains the loss.

    Args:
        model: with its spec attached, as `load` returns it; it is not changed.
        path: file to write. For OpenVINO its name must end in `.xml`; the weights go to a `.bin` file beside it.
        format: `onnx`, `pt2` or `openvino`.
        samples: images to compare on, float32 [n, channels, H, W], preprocessed; None generates some.
        int8: also quantise weights and activations to 8 bits; not for pt2. onnxruntime quantises in four ways, and
            NNCF if it is installed; the file with the smallest logit error on `calibration` on this machine is kept.
            The first layers stay in float32 where they have a small part of the multiply-adds.
        calibration: training images that give the ranges of the activations, float32 [n, channels, H, W], preprocessed;
            int8 only.
        evaluation: labelled images to measure the accuracy before and after on; int8 only.
        progress: reports progress.

    Raises:
        UsageError: the format is unknown, the name does not fit it, or int8 lacks images or is requested for `pt2`.
        CfpError: a package is missing, the network cannot be exported, or the file differs from the network. Nothing is
            written then.
    """
    path = Path(path)
    if format not in FORMATS:
        raise UsageError(f"unknown export format '{format}'; use {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    writer = WRITERS[format]
    if int8 and not writer.int8:
        formats = " or ".join(name for name, each in WRITERS.items() if each.int8)
        raise UsageError(f"int8 needs the {formats} format; use --format onnx or leave out --int8")
    if int8 and (calibration is None or evaluation is None):
        raise UsageError("int8 needs training images to calibrate on and labelled images to evaluate on; pass the data")
    writer.check(path)
    if int8:
        onnx_file.require_extra("int8 quantisation")
    spec = spec_of(model)
    network = copy.deepcopy(model).cpu().eval().to(memory_format=torch.contiguous_format)
    origin = "procedural" if samples is None else "given"
    images = procedural_images(spec) if samples is None else samples.cpu()
    _check_images(images, spec)
    if int8:
        with torch.inference_mode():
            require_logits(run_network(network, images[:1]))
    progress.say(f"tracing {spec.arch}")
    example = torch.rand(2, *spec.input_shape, generator=torch.Generator().manual_seed(0))
    metadata = describe_file(spec, int8=False)
    content = writer.to_bytes(network, example, metadata)
    int8_file: Quantised | None = None
    with scratch_folder() as folder:
        candidate = folder / f"candidate{ENDINGS[format]}"
        writer.write(content, candidate, metadata)
        run = writer.runner(candidate)
        progress.say(f"running the file on {len(images)} images")
        agreement = check(network, run, images, progress)
        top1, error = agreement.top1, agreement.error
        before: Metrics | None = None
        after: Metrics | None = None
        if writer.int8 and int8 and calibration is not None and evaluation is not None:
            _check_images(calibration, spec)
            metadata = describe_file(spec, int8=True)
            int8_file = quantise(network, content, calibration.cpu(), metadata, writer.int8, progress)
            writer.write(int8_file.content, candidate, metadata)
            run = writer.runner(candidate)
            quantised = compare(network, run, images)
            top1, error = quantised.top1, quantised.error
            before, after = metrics_of(network, evaluation, spec), metrics_of(run, evaluation, spec)
        size = writer.copy(candidate, path)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    weight = parameters * (1 if int8 else 4)
    return ExportReport(
        path=path,
        format=format,
        precision="int8" if int8 else "float32",
        bytes=size,
        parameters=parameters,
        parameter_bytes=weight,
        overhead=size / weight - 1,
        images=len(images),
        samples=origin,
        top1_agreement=top1,
        max_relative_error=error,
        accuracy_before=before.accuracy if before else None,
        accuracy_after=after.accuracy if after else None,
        macro_f1_before=before.macro_f1 if before else None,
        macro_f1_after=after.macro_f1 if after else None,
        error_budget=agreement.budget,
        float64_error=agreement.float64_error,
        checkpoint_float64_error=agreement.checkpoint_float64_error,
        quantiser=int8_file.quantiser if int8_file is not None else None,
        float32_layers=int8_file.float32_layers if int8_file is not None else None,
        layers=int8_file.layers if int8_file is not None else None,
    )


def metrics_of(run: Runner | nn.Module, loader: Loader, spec: ModelSpec) -> Metrics:
    """Return the metrics of a network or of an exported file, as a function from images to logits.

    Args:
        run: the network, or the file.
        loader: batches of images float32 [n, channels, H, W], preprocessed, and labels int64 [n].
        spec: has the class names, in the order of the logits.
    """
    predictions, labels = [], []
    with torch.inference_mode():
        for images, truth in loader:
            predictions.append(require_logits(run(images)).argmax(1))
            labels.append(truth)
    return compute_metrics(torch.cat(predictions), torch.cat(labels), spec.classes)


def _check_images(images: Tensor, spec: ModelSpec) -> None:
    shape = spec.input_shape
    if images.dim() != 4 or images.shape[1:] != shape or images.dtype != torch.float32 or not len(images):
        raise UsageError(
            f"images of shape {list(images.shape)} and {images.dtype} do not fit the network; "
            f"pass float32 [n, {', '.join(map(str, shape))}]"
        )
